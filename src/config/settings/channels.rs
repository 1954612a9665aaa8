//! `[[channels]]` and `[channel_defaults]`: channel rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::one_or_many::OneOrMany;

macro_rules! channel_settings {
    ($($field:ident: $type:ty = $default:expr,)+) => {
        settings! {
            pub struct ChannelDefaults { $(pub $field: $type = $default,)+ }

            /// The rule of the channels that match. Missing values are those of [`ChannelDefaults`].
            pub struct Channel {
                pub r#match: Option<String>,
                $(pub $field: Option<$type>,)+
            }
        }

        impl Channel {
            /// A rule without missing values.
            pub fn of(pattern: Option<String>, values: ChannelDefaults) -> Self {
                Self { r#match: pattern, $($field: Some(values.$field),)+ }
            }

            /// The pattern, and the values completed from the defaults.
            pub fn complete(self, defaults: &ChannelDefaults) -> (Option<String>, ChannelDefaults) {
                let values = ChannelDefaults {
                    $($field: self.$field.unwrap_or_else(|| defaults.$field.clone()),)+
                };
                (self.r#match, values)
            }
        }
    };
}

channel_settings! {
    subscribers: Subscribers = Subscribers::Word("authenticated".to_owned()),
    deny: Option<OneOrManyRequirements> = None,
    max_connections: u64 = 100_000,
    max_messages: u64 = 0,
    max_data_bytes: u64 = 0,
    max_message_bytes: u64 = 65_536,
    lifespan_secs: u64 = 0,
    backlog_messages: u64 = 0,
    backlog_secs: u64 = 300,
    backlog_bytes: u64 = 1_048_576,
    slow_consumer: String = "disconnect".to_owned(),
    compress: bool = true,
    replies: bool = false,
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
