//! Channels: the rules in order, each completed from the defaults.

use serde_json::Value;

use super::super::path::Path;
use super::super::report::Report;
use super::super::settings::{Channel, ChannelDefaults, Requirements, Subscribers};
use super::super::suggest::one_of;
use super::limits::Numbers;
use crate::broker::rules::Requirements as Matching;
use crate::broker::{Audience, ChannelLimits, ChannelRule, ChannelRules, SlowConsumer};
use crate::protocol::{ChannelName, Pattern};

pub fn check(channels: Vec<Channel>, defaults: ChannelDefaults, report: &mut Report) -> ChannelRules {
    let default = check_values(Pattern::new("*"), &Path::of("channel_defaults"), defaults.clone(), report);
    let mut rules: Vec<ChannelRule> = Vec::new();
    for (index, channel) in channels.into_iter().enumerate() {
        let path = Path::of("channels").index(index);
        let (pattern, values) = complete(channel, &defaults);
        let pattern = match pattern {
            Some(pattern) => check_pattern(&pattern, &path.key("match"), report),
            None => {
                report.missing(&path, "match", "must be a pattern of channels, like \"prices.*\"");
                continue;
            }
        };
        let earlier = rules.iter().position(|rule| rule.pattern == pattern || rule.pattern.as_str() == "*");
        if let Some(earlier) = earlier {
            report.warn(&path, format_args!("never used, channels[{earlier}] matches first"));
        }
        rules.push(check_values(pattern, &path, values, report));
    }
    ChannelRules { rules, default }
}

/// A pattern that can match a channel.
pub fn check_pattern(pattern: &str, path: &Path, report: &mut Report) -> Pattern {
    // What a name may hold a pattern may hold; a `*` may stand for anything.
    if let Err(reason) = ChannelName::parse(pattern) {
        report.wrong(path, pattern, format_args!("must be a pattern of channels, like \"prices.*\": {reason}"));
    }
    Pattern::new(pattern)
}

/// What the rule leaves out is as in the defaults.
fn complete(channel: Channel, defaults: &ChannelDefaults) -> (Option<String>, ChannelDefaults) {
    let Channel {
        r#match,
        subscribers,
        max_connections,
        max_messages,
        max_data_bytes,
        max_message_bytes,
        lifespan_secs,
        backlog_messages,
        backlog_secs,
        slow_consumer,
        compress,
        replies,
    } = channel;
    let values = ChannelDefaults {
        subscribers: subscribers.unwrap_or_else(|| defaults.subscribers.clone()),
        max_connections: max_connections.unwrap_or(defaults.max_connections),
        max_messages: max_messages.unwrap_or(defaults.max_messages),
        max_data_bytes: max_data_bytes.unwrap_or(defaults.max_data_bytes),
        max_message_bytes: max_message_bytes.unwrap_or(defaults.max_message_bytes),
        lifespan_secs: lifespan_secs.unwrap_or(defaults.lifespan_secs),
        backlog_messages: backlog_messages.unwrap_or(defaults.backlog_messages),
        backlog_secs: backlog_secs.unwrap_or(defaults.backlog_secs),
        slow_consumer: slow_consumer.unwrap_or_else(|| defaults.slow_consumer.clone()),
        compress: compress.unwrap_or(defaults.compress),
        replies: replies.unwrap_or(defaults.replies),
    };
    (r#match, values)
}

fn check_values(pattern: Pattern, path: &Path, values: ChannelDefaults, report: &mut Report) -> ChannelRule {
    let ChannelDefaults {
        subscribers,
        max_connections,
        max_messages,
        max_data_bytes,
        max_message_bytes,
        lifespan_secs,
        backlog_messages,
        backlog_secs,
        slow_consumer,
        compress,
        replies,
    } = values;
    if replies {
        report.wrong(&path.key("replies"), replies, "not in this version; must be false");
    }
    let subscribers = check_subscribers(subscribers, &path.key("subscribers"), report);
    let slow_consumer = match slow_consumer.as_str() {
        "disconnect" => SlowConsumer::Disconnect,
        "latest" => SlowConsumer::Latest,
        other => {
            report.wrong(&path.key("slow_consumer"), other, one_of(other, &["disconnect", "latest"]));
            SlowConsumer::Disconnect
        }
    };
    let mut numbers = Numbers::new(path.clone(), report);
    ChannelRule {
        pattern,
        subscribers,
        limits: ChannelLimits {
            max_connections: numbers.count("max_connections", max_connections, 0),
            max_messages,
            max_data_bytes,
            max_message_bytes: numbers.bytes("max_message_bytes", max_message_bytes, 0),
            lifespan: numbers.secs("lifespan_secs", lifespan_secs, 0),
        },
        slow_consumer,
        compress,
        backlog_messages: numbers.count("backlog_messages", backlog_messages, 0),
        backlog_age: numbers.secs("backlog_secs", backlog_secs, 0),
    }
}

fn check_subscribers(subscribers: Subscribers, path: &Path, report: &mut Report) -> Audience {
    let requirements = match subscribers {
        Subscribers::Matching(requirements) => requirements,
        Subscribers::Word(word) => {
            return match word.as_str() {
                "anyone" => Audience::Anyone,
                "authenticated" => Audience::Authenticated,
                other => {
                    let right = one_of(other, &["anyone", "authenticated"]);
                    report.wrong(path, other, format_args!("{right} (or a table with scope, group, claim)"));
                    Audience::Authenticated
                }
            };
        }
    };
    let Requirements { scope, group, claim } = requirements;
    let groups = group.map(|group| group.into_vec()).unwrap_or_default();
    if scope.is_none() && groups.is_empty() && claim.is_empty() && !report.has_mistake_in(path) {
        let right = "must name a scope, group or claim; \"authenticated\" stands for every valid token";
        report.wrong(path, Value::Object(Default::default()), right);
    }
    if let Some(scope) = scope.as_deref().filter(|scope| scope.is_empty() || scope.contains(' ')) {
        report.wrong(&path.key("scope"), scope, "must be one word");
    }
    Audience::Matching(Matching { scope, groups, claims: claim })
}
