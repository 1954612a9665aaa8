//! `[[channels]]` and `[channel_defaults]`: channel rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::one_or_many::OneOrMany;

/// The rule of the channels that match. Missing values are those of [`ChannelDefaults`].
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Channel {
    pub r#match: Option<String>,
    pub subscribers: Option<Subscribers>,
    pub deny: Option<OneOrManyRequirements>,
    pub max_connections: Option<u64>,
    pub max_messages: Option<u64>,
    pub max_data_bytes: Option<u64>,
    pub max_message_bytes: Option<u64>,
    pub lifespan_secs: Option<u64>,
    pub backlog_messages: Option<u64>,
    pub backlog_secs: Option<u64>,
    pub backlog_bytes: Option<u64>,
    pub slow_consumer: Option<String>,
    pub compress: Option<bool>,
    pub replies: Option<bool>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelDefaults {
    pub subscribers: Subscribers,
    pub deny: Option<OneOrManyRequirements>,
    pub max_connections: u64,
    pub max_messages: u64,
    pub max_data_bytes: u64,
    pub max_message_bytes: u64,
    pub lifespan_secs: u64,
    pub backlog_messages: u64,
    pub backlog_secs: u64,
    pub backlog_bytes: u64,
    pub slow_consumer: String,
    pub compress: bool,
    pub replies: bool,
}

impl Default for ChannelDefaults {
    fn default() -> Self {
        Self {
            subscribers: Subscribers::Word("authenticated".to_owned()),
            deny: None,
            max_connections: 100_000,
            max_messages: 0,
            max_data_bytes: 0,
            max_message_bytes: 65_536,
            lifespan_secs: 0,
            backlog_messages: 0,
            backlog_secs: 300,
            backlog_bytes: 1_048_576,
            slow_consumer: "disconnect".to_owned(),
            compress: true,
            replies: false,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Subscribers {
    Word(String),
    Matching(OneOrManyRequirements),
}

/// One table, or a list of alternatives.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrManyRequirements {
    // Before `One`: serde would read a list as the fields of a table, in their order.
    Many(Vec<Requirements>),
    One(Requirements),
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<OneOrMany>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claim: BTreeMap<String, Value>,
}
