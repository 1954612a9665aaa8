//! Channel rules, completed from the defaults.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::name;
use super::numbers::Numbers;
use crate::broker::channel::rules::Requirements as Matching;
use crate::broker::{Audience, ChannelLimits, ChannelRule, ChannelRules, ClaimPattern, SlowConsumer};
use crate::cluster::pushed_policy::WrittenRules;
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Channel, ChannelDefaults, OneOrManyRequirements, Requirements, Subscribers};
use crate::config::suggest::one_of;
use crate::protocol::channel::TOPIC_PREFIX;
use crate::protocol::{ChannelName, Pattern};

pub fn check(channels: Vec<Channel>, defaults: ChannelDefaults, report: &mut Report) -> WrittenRules {
    let mut written = json!({ "channels": channels, "channel_defaults": defaults });
    drop_nulls(&mut written);
    let everything = (Pattern::new("*"), None);
    let default = check_values(everything, &Path::of("channel_defaults"), defaults.clone(), report);
    let mut rules: Vec<ChannelRule> = Vec::new();
    for (index, channel) in channels.into_iter().enumerate() {
        let path = Path::of("channels").index(index);
        let (pattern, values) = channel.complete(&defaults);
        let pattern = match pattern {
            Some(pattern) => check_match(&pattern, &path.key("match"), report),
            None => {
                report.missing(&path, "match", "must be a pattern of channels, such as \"prices.*\"");
                continue;
            }
        };
        // A pattern that matches the text of another one matches every channel that the other matches.
        let text = ChannelName::from_dialect(pattern.0.as_str());
        let earlier = text.ok().and_then(|text| rules.iter().position(|rule| rule.pattern.matches(&text)));
        if let Some(earlier) = earlier {
            report.warn(&path, format_args!("never used: channels[{earlier}] matches first"));
        }
        rules.push(check_values(pattern, &path, values, report));
    }
    WrittenRules { rules: ChannelRules { rules, default, issuers: HashMap::new() }, written }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Parses the pattern of a rule; a pattern with claims in braces gives each owner its own channels.
fn check_match(text: &str, path: &Path, report: &mut Report) -> (Pattern, Option<ClaimPattern>) {
    match ClaimPattern::parse(text) {
        Ok(Some(claims)) => (check_pattern(claims.shape().as_str(), path, report), Some(claims)),
        Ok(None) => (check_pattern(text, path, report), None),
        Err(error) => {
            report.wrong(path, text, format_args!("must be a pattern of channels, such as \"user.{{sub}}\": {error}"));
            (Pattern::new(text), None)
        }
    }
}

/// Reports a pattern that can match no channel.
pub fn check_pattern(pattern: &str, path: &Path, report: &mut Report) -> Pattern {
    // A pattern has the form of a name, as `*` is valid in names. Topics of the flock dialect that are no channel names
    // map to reserved channels, which only patterns may name.
    let is_topic = pattern.starts_with(TOPIC_PREFIX);
    if let Err(reason) = ChannelName::parse(pattern)
        && !is_topic
    {
        report.wrong(path, pattern, format_args!("must be a pattern of channels, such as \"prices.*\": {reason}"));
    }
    Pattern::new(pattern)
}

fn check_values(
    (pattern, claim_pattern): (Pattern, Option<ClaimPattern>),
    path: &Path,
    values: ChannelDefaults,
    report: &mut Report,
) -> ChannelRule {
    let ChannelDefaults {
        subscribers,
        deny,
        max_connections,
        max_messages,
        max_data_bytes,
        max_message_bytes,
        lifespan_secs,
        backlog_messages,
        backlog_secs,
        backlog_bytes,
        slow_consumer,
        compress,
        replies,
    } = values;
    let subscribers = check_subscribers(subscribers, &path.key("subscribers"), report);
    let deny_path = path.key("deny");
    let deny = deny.map(|deny| check_tables(deny, &deny_path, report)).unwrap_or_default();
    if subscribers == Audience::Anyone && !deny.is_empty() && claim_pattern.is_none() {
        report.warn(
            &deny_path,
            "has little effect: subscribers is \"anyone\", so a denied client can connect without its token",
        );
    }
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
        claim_pattern,
        deny,
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
        backlog_bytes: numbers.bytes("backlog_bytes", backlog_bytes, 0),
        replies,
    }
}

fn check_subscribers(subscribers: Subscribers, path: &Path, report: &mut Report) -> Audience {
    match subscribers {
        Subscribers::Matching(tables) => Audience::Matching(check_tables(tables, path, report)),
        Subscribers::Word(word) => match word.as_str() {
            "anyone" => Audience::Anyone,
            "authenticated" => Audience::Authenticated,
            other => {
                let right = one_of(other, &["anyone", "authenticated"]);
                report.wrong(path, other, format_args!("{right} (or a table with issuer, scope, group, claim)"));
                Audience::Authenticated
            }
        },
    }
}

fn check_tables(tables: OneOrManyRequirements, path: &Path, report: &mut Report) -> Vec<Matching> {
    match tables {
        OneOrManyRequirements::One(table) => vec![check_requirements(table, path, report)],
        OneOrManyRequirements::Many(tables) => {
            if tables.is_empty() && !report.has_mistake_in(path) {
                report.wrong(path, Value::Array(Vec::new()), "must hold at least one table");
            }
            let tables = tables.into_iter().enumerate();
            tables.map(|(index, table)| check_requirements(table, &path.index(index), report)).collect()
        }
    }
}

fn check_requirements(table: Requirements, path: &Path, report: &mut Report) -> Matching {
    let Requirements { issuer, scope, group, claim } = table;
    let groups = group.map(|group| group.into_vec()).unwrap_or_default();
    let is_empty = issuer.is_none() && scope.is_none() && groups.is_empty() && claim.is_empty();
    if is_empty && !report.has_mistake_in(path) {
        let right = "must name an issuer, scope, group or claim; use \"authenticated\" for every valid token";
        report.wrong(path, Value::Object(Default::default()), right);
    }
    if let Some(scope) = scope.as_deref().filter(|scope| scope.is_empty() || scope.contains(' ')) {
        report.wrong(&path.key("scope"), scope, "must be one scope, without spaces");
    }
    for name in claim.keys() {
        name::check_claim(name, &path.key("claim"), report);
    }
    Matching { issuer, scope, groups, claims: claim }
}
