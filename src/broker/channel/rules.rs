//! The configured rules of channels: subscribers, limits, backlog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::broker::{ClaimPattern, Principal};
use crate::protocol::{ChannelName, Pattern};

/// The clients that may subscribe to a channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Audience {
    /// All clients, also without a token.
    Anyone,
    /// All clients with a valid token.
    Authenticated,
    /// Clients whose token meets one of these.
    Matching(Vec<Requirements>),
}

/// Conditions on a token; every condition that is set must be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    /// The token has this issuer.
    pub issuer: Option<String>,
    /// The scopes include this one.
    pub scope: Option<String>,
    /// The groups include one of these; no condition if empty.
    pub groups: Vec<String>,
    /// Each claim has this value, or is a list that includes it.
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

/// The treatment of a subscriber that does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Its connection is closed with `slow_consumer`.
    Disconnect,
    /// Its outbox keeps only the newest publication of the channel.
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
    /// The lower of both limits, for each limit.
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

/// The settings of all channels that match a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRule {
    /// With `*` for each claim: limits do not depend on the principal.
    pub pattern: Pattern,
    /// Set if the configured pattern has claims in braces: a principal may subscribe to its own channels alone.
    pub claim_pattern: Option<ClaimPattern>,
    /// A principal that meets one of these may not subscribe; takes precedence.
    pub deny: Vec<Requirements>,
    pub subscribers: Audience,
    pub limits: ChannelLimits,
    pub slow_consumer: SlowConsumer,
    /// Publications may be compressed for clients that negotiated it.
    pub compress: bool,
    /// Publications kept for subscribers that reconnect; 0 keeps none.
    pub backlog_messages: u64,
    /// How long they are kept; zero for no limit of time.
    pub backlog_age: Duration,
    /// Bytes of memory for them; 0 for no limit of this channel.
    pub backlog_bytes: u64,
    /// Whether subscribers may reply to the publisher.
    pub replies: bool,
}

impl ChannelRule {
    /// Checks `deny`, then the claim pattern, then `subscribers`.
    fn allows(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        !principal.is_some_and(|principal| self.denies(principal))
            && self
                .claim_pattern
                .as_ref()
                .is_none_or(|pattern| principal.is_some_and(|principal| pattern.matches(channel, principal)))
            && self.subscribers.allows(principal)
    }

    fn denies(&self, principal: &Principal) -> bool {
        self.deny.iter().any(|denied| denied.met_by(principal))
    }

    /// The reason to refuse a principal on every channel of the rule, as text for the operator.
    pub fn refuses(&self, principal: &Principal) -> Option<&'static str> {
        if self.denies(principal) {
            Some("token matches deny")
        } else if !self.subscribers.allows(Some(principal)) {
            Some("token does not meet subscribers")
        } else {
            None
        }
    }

    /// Whether a valid token alone does not suffice.
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
    /// The channels that the tokens of an issuer may subscribe to; all for an issuer without an entry.
    pub issuers: HashMap<Arc<str>, Vec<Pattern>>,
}

impl ChannelRules {
    /// The claims that rules use.
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

    /// Whether a client may subscribe to a channel; `None` is a client without a token. Allocates only for a rule with
    /// a claim pattern.
    pub fn may_subscribe(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        self.is_within_issuer(channel, principal) && self.of(channel).allows(channel, principal)
    }

    /// The reason to refuse a channel, as text for the operator.
    pub fn verdict(&self, channel: &ChannelName, principal: &Principal) -> &'static str {
        if !self.is_within_issuer(channel, Some(principal)) {
            return "issuer of the token may not grant the channel";
        }
        self.of(channel).refuses(principal).unwrap_or("claims of the token do not match the channel")
    }

    /// Whether tokens of the principal's issuer may subscribe to this channel.
    fn is_within_issuer(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        let patterns = principal.and_then(|principal| self.issuers.get(&principal.issuer));
        patterns.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(channel)))
    }
}
