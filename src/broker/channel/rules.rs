//! What the operator says about channels: who may subscribe, and the limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::broker::{ClaimPattern, Principal};
use crate::protocol::{ChannelName, Pattern};

/// Who may subscribe to a channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Audience {
    /// Everybody, also without a token.
    Anyone,
    /// Everybody with a valid token.
    Authenticated,
    /// Everybody whose token has all of what one of these asks for.
    Matching(Vec<Requirements>),
}

/// What a token must hold; every part that is set must be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    /// This issuer vouches for it.
    pub issuer: Option<String>,
    /// This word is among the scopes.
    pub scope: Option<String>,
    /// One of these is among the groups; empty asks for none.
    pub groups: Vec<String>,
    /// Each claim has this value, or is a list that holds it.
    pub claims: BTreeMap<String, Value>,
}

impl Audience {
    fn allows(&self, principal: Option<&Principal>) -> bool {
        match (self, principal) {
            (Self::Anyone, _) => true,
            (_, None) => false,
            (Self::Authenticated, Some(_)) => true,
            (Self::Matching(any), Some(principal)) => any.iter().any(|all| all.met_by(principal)),
        }
    }
}

impl Requirements {
    fn met_by(&self, principal: &Principal) -> bool {
        let issuer = self.issuer.as_ref().is_none_or(|issuer| **issuer == *principal.issuer);
        let scope = self.scope.as_ref().is_none_or(|scope| principal.scopes.contains(scope));
        let group = self.groups.is_empty() || self.groups.iter().any(|group| principal.groups.contains(group));
        let claims = self.claims.iter().all(|(name, wanted)| match principal.claims.get(name) {
            Some(Value::Array(values)) => values.contains(wanted),
            Some(value) => value == wanted,
            None => false,
        });
        issuer && scope && group && claims
    }
}

/// What happens to a subscriber that does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Its connection is closed with `slow_consumer`.
    Disconnect,
    /// It keeps only the newest publication of the channel.
    Latest,
}

/// Limits of one channel; 0 means no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Subscribers at once.
    pub max_connections: u64,
    /// Publications over the life of the channel.
    pub max_messages: u64,
    /// Payload bytes over the life of the channel.
    pub max_data_bytes: u64,
    /// Payload bytes of one publication.
    pub max_message_bytes: u64,
    /// From the creation of the channel; zero for no limit.
    pub lifespan: Duration,
}

impl ChannelLimits {
    /// The tighter of both in every respect.
    pub fn narrowed_by(&self, other: &Self) -> Self {
        let tighter = |a: u64, b: u64| if a == 0 || (b != 0 && b < a) { b } else { a };
        Self {
            max_connections: tighter(self.max_connections, other.max_connections),
            max_messages: tighter(self.max_messages, other.max_messages),
            max_data_bytes: tighter(self.max_data_bytes, other.max_data_bytes),
            max_message_bytes: tighter(self.max_message_bytes, other.max_message_bytes),
            lifespan: match (self.lifespan, other.lifespan) {
                (one, Duration::ZERO) | (Duration::ZERO, one) => one,
                (one, other) => one.min(other),
            },
        }
    }
}

/// What the configuration says of the channels that match a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRule {
    /// With `*` where a template has a claim: limits do not depend on who asks.
    pub pattern: Pattern,
    /// Whose channels these are, where the pattern was written with claims in braces.
    pub claim_pattern: Option<ClaimPattern>,
    /// Who meets one of these may not subscribe, whatever else holds.
    pub deny: Vec<Requirements>,
    pub subscribers: Audience,
    pub limits: ChannelLimits,
    pub slow_consumer: SlowConsumer,
    /// Publications may be compressed for those who take it.
    pub compress: bool,
    /// Publications kept for those who come back; 0 keeps none.
    pub backlog_messages: u64,
    /// How long they are kept; zero for as long as there is room.
    pub backlog_age: Duration,
    /// Bytes of memory that they may take; 0 for no limit of this channel.
    pub backlog_bytes: u64,
    /// Whether subscribers may reply to the publisher.
    pub replies: bool,
}

impl ChannelRule {
    /// Denials first, then whose channel it is, then who may subscribe.
    fn allows(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        !principal.is_some_and(|principal| self.denies(principal))
            && self
                .claim_pattern
                .as_ref()
                .is_none_or(|template| principal.is_some_and(|who| template.matches(channel, who)))
            && self.subscribers.allows(principal)
    }

    fn denies(&self, principal: &Principal) -> bool {
        self.deny.iter().any(|denied| denied.met_by(principal))
    }

    /// Why it refuses a principal on every channel, in words for the operator.
    pub fn refuses(&self, principal: &Principal) -> Option<&'static str> {
        if self.denies(principal) {
            Some("deny meets the token")
        } else if !self.subscribers.allows(Some(principal)) {
            Some("the token lacks what subscribers asks for")
        } else {
            None
        }
    }

    /// Whether it asks for more than some valid token.
    pub fn is_restricted(&self) -> bool {
        matches!(self.subscribers, Audience::Matching(_)) || self.claim_pattern.is_some() || !self.deny.is_empty()
    }
}

/// The rules in order; the first match wins and the last one matches everything.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRules {
    pub rules: Vec<ChannelRule>,
    /// For every channel that no rule matches.
    pub default: ChannelRule,
    /// What the tokens of an issuer may open at most; everything for one that is not here.
    pub issuers: HashMap<Arc<str>, Vec<Pattern>>,
}

impl ChannelRules {
    /// The claims that rules look at.
    pub fn claims(&self) -> BTreeSet<&str> {
        let all = self.rules.iter().chain([&self.default]);
        all.flat_map(|rule| {
            let allowed = match &rule.subscribers {
                Audience::Matching(any) => any.as_slice(),
                Audience::Anyone | Audience::Authenticated => &[],
            };
            let required = allowed.iter().chain(&rule.deny).flat_map(|needed| needed.claims.keys().map(String::as_str));
            required.chain(rule.claim_pattern.iter().flat_map(ClaimPattern::claims))
        })
        .collect()
    }

    pub fn of(&self, channel: &ChannelName) -> &ChannelRule {
        self.rules.iter().find(|rule| rule.pattern.matches(channel)).unwrap_or(&self.default)
    }

    /// Whether somebody may listen to a channel; `None` is somebody without a token. Costs no allocation where no
    /// template is met.
    pub fn may_subscribe(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        self.is_within_issuer(channel, principal) && self.of(channel).allows(channel, principal)
    }

    /// Why somebody may not listen to a channel, in words for the operator.
    pub fn verdict(&self, channel: &ChannelName, principal: &Principal) -> &'static str {
        if !self.is_within_issuer(channel, Some(principal)) {
            return "its issuer does not open it to anybody";
        }
        self.of(channel).refuses(principal).unwrap_or("it is another one's, by the claims of the token")
    }

    /// Whether the issuer of a principal may open this channel to anybody.
    fn is_within_issuer(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        let rights = principal.and_then(|principal| self.issuers.get(&principal.issuer));
        rights.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(channel)))
    }
}
