//! What the operator says about channels: who may subscribe, and the limits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Principal;
use crate::protocol::{ChannelName, Pattern};

/// Who may subscribe to a channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Audience {
    /// Everybody, also without a token.
    Anyone,
    /// Everybody with a valid token.
    Authenticated,
    /// Everybody whose token has all of this.
    Matching(Requirements),
}

/// What a token must hold; every part that is set must be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    /// This word is among the scopes.
    pub scope: Option<String>,
    /// One of these is among the groups; empty asks for none.
    pub groups: Vec<String>,
    /// Each claim has this value, or is a list that holds it.
    pub claims: BTreeMap<String, Value>,
}

impl Audience {
    pub fn allows(&self, principal: Option<&Principal>) -> bool {
        match (self, principal) {
            (Self::Anyone, _) => true,
            (_, None) => false,
            (Self::Authenticated, Some(_)) => true,
            (Self::Matching(requirements), Some(principal)) => requirements.met_by(principal),
        }
    }
}

impl Requirements {
    fn met_by(&self, principal: &Principal) -> bool {
        let scope = self.scope.as_ref().is_none_or(|scope| principal.scopes.contains(scope));
        let group = self.groups.is_empty() || self.groups.iter().any(|group| principal.groups.contains(group));
        let claims = self.claims.iter().all(|(name, wanted)| match principal.claims.get(name) {
            Some(Value::Array(values)) => values.contains(wanted),
            Some(value) => value == wanted,
            None => false,
        });
        scope && group && claims
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
    pub pattern: Pattern,
    pub subscribers: Audience,
    pub limits: ChannelLimits,
    pub slow_consumer: SlowConsumer,
    /// Publications may be compressed for those who take it.
    pub compress: bool,
    /// Publications kept for those who come back; 0 keeps none.
    pub backlog_messages: u64,
    /// How long they are kept; zero for as long as there is room.
    pub backlog_age: Duration,
}

/// The rules in order; the first match wins and the last one matches everything.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRules {
    pub rules: Vec<ChannelRule>,
    /// For every channel that no rule matches.
    pub default: ChannelRule,
}

impl ChannelRules {
    pub fn of(&self, channel: &ChannelName) -> &ChannelRule {
        self.rules.iter().find(|rule| rule.pattern.matches(channel)).unwrap_or(&self.default)
    }
}
