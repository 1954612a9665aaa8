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
    fn of_issuer(issuer: &str) -> Self {
        Self { issuer: Some(issuer.to_owned()), ..Self::default() }
    }

    fn met_by(&self, principal: &Principal) -> bool {
        let issuer = self.issuer.as_ref().is_none_or(|issuer| **issuer == *principal.issuer);
        let scope = self.scope.as_ref().is_none_or(|scope| principal.scopes.contains(scope));
        let group = self.groups.is_empty() || self.groups.iter().any(|group| principal.groups.contains(group));
        let claims = self.claims.iter().all(|(name, wanted)| match principal.claim(name) {
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
    fn allows(&self, channel: &ChannelName, principal: Option<&Principal>, issuer: Option<&IssuerScope>) -> bool {
        let issuer_name = issuer.and_then(|issuer| issuer.name.as_deref());
        let is_own = |pattern: &ClaimPattern| {
            principal.is_some_and(|principal| pattern.matches(channel, principal, issuer_name))
        };
        !principal.is_some_and(|principal| self.denies(principal))
            && self.claim_pattern.as_ref().is_none_or(is_own)
            && self.subscribers.allows(principal)
    }

    /// Whether a token of this issuer may open a channel of the rule.
    fn is_open_to(&self, issuer: &str, scope: &IssuerScope) -> bool {
        let of_issuer = |required: &Requirements| required.issuer.as_deref() == Some(issuer);
        let is_denied = |denied: &Requirements| of_issuer(denied) && *denied == Requirements::of_issuer(issuer);
        let is_allowed = match &self.subscribers {
            Audience::Anyone | Audience::Authenticated => true,
            Audience::Matching(any) => any.iter().any(|all| all.issuer.is_none() || of_issuer(all)),
        };
        let is_within = |patterns: &Vec<Pattern>| patterns.iter().any(|pattern| pattern.may_overlap(&self.pattern));
        is_allowed && !self.deny.iter().any(is_denied) && scope.channels.as_ref().is_none_or(is_within)
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
    pub issuers: HashMap<Arc<str>, IssuerScope>,
}

/// The part of an issuer in channel rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssuerScope {
    /// Stands for `{iss}` in patterns.
    pub name: Option<Box<str>>,
    /// The channels that its tokens may subscribe to; `None` for all.
    pub channels: Option<Vec<Pattern>>,
}

/// A pattern that gives one channel to the subjects of two issuers, who are different persons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{pattern:?} means the same channel for subjects of several issuers; limit the rule to one issuer, or put {{iss}} into the pattern"
)]
pub struct AmbiguousPattern {
    /// The place of its rule.
    pub index: usize,
    pub pattern: String,
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

    /// The groups that rules name.
    pub fn groups(&self) -> BTreeSet<&str> {
        let all = self.rules.iter().chain([&self.default]);
        let requirements = all.flat_map(|rule| {
            let allowed = match &rule.subscribers {
                Audience::Matching(any) => any.as_slice(),
                Audience::Anyone | Audience::Authenticated => &[],
            };
            allowed.iter().chain(&rule.deny)
        });
        requirements.flat_map(|needed| needed.groups.iter().map(String::as_str)).collect()
    }

    pub fn of(&self, channel: &ChannelName) -> &ChannelRule {
        self.rules.iter().find(|rule| rule.pattern.matches(channel)).unwrap_or(&self.default)
    }

    /// Refuses patterns with claims that do not tell issuers apart. Identity is an issuer with a subject.
    pub fn check_patterns(&self) -> Result<(), AmbiguousPattern> {
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(pattern) = rule.claim_pattern.as_ref().filter(|pattern| !pattern.names_issuer()) else { continue };
            if self.issuers.iter().filter(|(issuer, scope)| rule.is_open_to(issuer, scope)).nth(1).is_some() {
                return Err(AmbiguousPattern { index, pattern: pattern.text() });
            }
        }
        Ok(())
    }

    /// Whether a client may subscribe to a channel; `None` is a client without a token. Allocates only for a rule with
    /// a claim pattern.
    pub fn may_subscribe(&self, channel: &ChannelName, principal: Option<&Principal>) -> bool {
        let issuer = self.issuer_of(principal);
        is_within(channel, issuer) && self.of(channel).allows(channel, principal, issuer)
    }

    /// The reason to refuse a channel, as text for the operator.
    pub fn verdict(&self, channel: &ChannelName, principal: &Principal) -> &'static str {
        if !is_within(channel, self.issuer_of(Some(principal))) {
            return "issuer of the token may not grant the channel";
        }
        self.of(channel).refuses(principal).unwrap_or("claims of the token do not match the channel")
    }

    fn issuer_of(&self, principal: Option<&Principal>) -> Option<&IssuerScope> {
        self.issuers.get(&principal?.issuer)
    }
}

/// Whether tokens of the issuer may subscribe to this channel.
fn is_within(channel: &ChannelName, issuer: Option<&IssuerScope>) -> bool {
    let patterns = issuer.and_then(|issuer| issuer.channels.as_ref());
    patterns.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(channel)))
}
