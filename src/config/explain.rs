//! Explains the policy of a configuration in plain text.

use std::fmt::Write;

use super::check::ALGORITHMS;
use super::suggest;
use super::{Config, Egress, EngineConfig};
use crate::auth::token::{KeySource, Remote};
use crate::auth::{IssuerConfig, PublisherConfig, PublisherKey};
use crate::broker::channel::rules::Requirements;
use crate::broker::{Audience, ChannelRule, SlowConsumer};
use crate::engine::disk::Fsync;
use crate::engine::{DiskConfig, RedisConfig, RedisKind};
use crate::ops::config::StatsdConfig;
use crate::protocol::{ChannelName, Pattern};
use crate::transport::config::ListenerConfig;

/// Explains the policy of a channel, of a publisher or, if neither is named, of the gateway. Lines end in `\n`.
pub fn explain(config: &Config, channel: Option<&str>, publisher: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(name) = channel {
        text += &channel_text(config, name);
    }
    if let Some(name) = publisher {
        text += &named_publisher_text(config, name);
    }
    if channel.is_none() && publisher.is_none() {
        text += &gateway_text(config);
    }
    text
}

fn gateway_text(config: &Config) -> String {
    let mut text = String::new();
    let egress = match config.egress {
        Egress::Configured => "outgoing connections: configured ones only",
        Egress::None => "outgoing connections: none",
    };
    line(&mut text, 0, egress);
    line(&mut text, 0, &engine_text(&config.engine));
    for file in config.geoip.iter().flat_map(|geoip| &geoip.files) {
        line(&mut text, 0, &format!("locations of peers: from {}", file.display()));
    }
    if let Some(StatsdConfig { host, port, prefix }) = &config.statsd {
        line(&mut text, 0, &format!("statsd: {host}, UDP port {port}, names {prefix}.…"));
    }
    config.listeners.iter().for_each(|listener| line(&mut text, 0, &listener_text(listener)));
    if config.policy.publishers.is_empty() {
        line(&mut text, 0, "no publishers: publishing is not possible");
    }
    config.policy.publishers.iter().for_each(|publisher| text += &publisher_text(publisher));
    if config.policy.issuers.is_empty() {
        line(&mut text, 0, "no issuers: only channels for anyone accept subscribers");
    }
    let rules = &config.policy.channels.rules;
    for issuer in &config.policy.issuers {
        line(&mut text, 0, &issuer_text(issuer));
        if let Some(patterns) = rules.issuers.get(issuer.issuer.as_str()).and_then(|scope| scope.channels.as_ref()) {
            line(&mut text, 1, &format!("its tokens are limited to: {}", listed(patterns.iter().map(Pattern::as_str))));
        }
    }
    if let Some(login) = &config.policy.login {
        let names = login.providers.iter().map(|provider| provider.name.as_str());
        line(&mut text, 0, &format!("logins at {}, with {}", login.url, listed(names)));
    }
    for rule in &rules.rules {
        text += &rule_text(&format!("channels {:?}", rule.pattern.as_str()), rule);
    }
    text += &rule_text("all other channels", &rules.default);
    if !config.policy.revocations.is_empty() {
        line(&mut text, 0, &format!("revocations in the file: {}", config.policy.revocations.len()));
    }
    text
}

fn engine_text(engine: &EngineConfig) -> String {
    match engine {
        EngineConfig::Memory { ledger: None } => "engine: memory; a restart loses every backlog".to_owned(),
        EngineConfig::Memory { ledger: Some(DiskConfig { path, .. }) } => {
            format!("engine: memory; a restart loses every backlog; ledger: {}", path.display())
        }
        EngineConfig::Disk(DiskConfig { path, fsync, max_bytes }) => {
            let survives = match fsync {
                Fsync::Always => "a crash of the gateway and a loss of power",
                Fsync::Never => "a crash of the gateway, not a loss of power",
            };
            format!(
                "engine: disk, {} of at most {max_bytes} bytes; acknowledged publications survive {survives}",
                path.display()
            )
        }
        EngineConfig::Redis(redis) => redis_text(redis),
    }
}

/// Without user and password.
fn redis_text(redis: &RedisConfig) -> String {
    let kind = match &redis.kind {
        RedisKind::Single => "one server".to_owned(),
        RedisKind::Cluster => "a Cluster".to_owned(),
        RedisKind::Sentinel(master) => format!("Sentinels, master {master:?}"),
    };
    let addresses = redis.addresses();
    format!(
        "engine: redis, {kind} at {}; keys begin with {}:",
        listed(addresses.iter().map(String::as_str)),
        redis.prefix
    )
}

fn channel_text(config: &Config, name: &str) -> String {
    let channel = match ChannelName::parse(name) {
        Ok(channel) => channel,
        Err(reason) => return format!("channel {name:?}: {reason}\n"),
    };
    let rules = &config.policy.channels.rules;
    let rule = rules.of(&channel);
    let origin = match rules.rules.iter().position(|known| known.pattern.matches(&channel)) {
        Some(index) => format!("channels[{index}], match = {:?}", rule.pattern.as_str()),
        None => "channel_defaults".to_owned(),
    };
    let mut text = rule_text(&format!("channel {name:?}, by {origin}"), rule);
    let may = |publisher: &&PublisherConfig| publisher.channels.iter().any(|pattern| pattern.matches(&channel));
    let publishers = config.policy.publishers.iter().filter(may).map(|publisher| publisher.name.as_str());
    line(&mut text, 1, &format!("publishers: {}", listed(publishers)));
    text
}

/// `name` is a name or a fingerprint.
fn named_publisher_text(config: &Config, name: &str) -> String {
    let publishers = &config.policy.publishers;
    let has_keyid = |key: &PublisherKey| key.fingerprint().to_string() == name;
    let is_named =
        |publisher: &&PublisherConfig| publisher.name == name || publisher.key.as_ref().is_some_and(has_keyid);
    match publishers.iter().find(is_named) {
        Some(publisher) => publisher_text(publisher),
        None => match suggest::word(name, publishers.iter().map(|publisher| publisher.name.as_str())) {
            Some(meant) => format!("publisher {name}: not on the whitelist; did you mean {meant}?\n"),
            None => format!("publisher {name}: not on the whitelist\n"),
        },
    }
}

fn publisher_text(publisher: &PublisherConfig) -> String {
    let mut text = String::new();
    line(&mut text, 0, &format!("publisher {}", publisher.name));
    if let Some(key) = &publisher.key {
        let note = match key {
            PublisherKey::Known(_) => "",
            PublisherKey::Hash(_) => " (configured by its hash; requests carry the key)",
        };
        line(&mut text, 1, &format!("key: {}{note}", key.fingerprint()));
    }
    if let Some(basic) = &publisher.basic {
        line(
            &mut text,
            1,
            &format!("password: of the user {:?}, on listeners with the role flock-publish", basic.username),
        );
    }
    line(
        &mut text,
        1,
        &format!("may create and publish to: {}", listed(publisher.channels.iter().map(Pattern::as_str))),
    );
    if publisher.control {
        line(&mut text, 1, "may send control requests: keys of issuers, channel rules and revocations");
    }
    if let Some(end) = publisher.not_after {
        line(&mut text, 1, &format!("expires: {end}"));
    }
    if let Some(rate) = publisher.rate_limit_per_second {
        line(&mut text, 1, &format!("publications per second: {rate}"));
    }
    text
}

fn listener_text(listener: &ListenerConfig) -> String {
    let roles = listed(listener.roles.iter().map(|role| role.name()));
    let tls = if listener.tls.is_some() { "with TLS" } else { "without TLS" };
    let compression = if listener.compression { ", compresses WebSockets" } else { "" };
    format!("listener {}: {} {tls}, serves {roles}{compression}", listener.name, listener.address)
}

fn issuer_text(issuer: &IssuerConfig) -> String {
    let algorithms = ALGORITHMS.iter().filter(|(_, algorithm)| issuer.algorithms.contains(algorithm));
    format!(
        "issuer {}: for {}, by {}, {}, tokens of at most {} s",
        issuer.issuer,
        listed(issuer.audiences.iter().map(String::as_str)),
        listed(algorithms.map(|(name, _)| *name)),
        keys_text(&issuer.keys),
        issuer.max_lifetime_secs
    )
}

fn keys_text(keys: &KeySource) -> String {
    match keys {
        KeySource::File { keys, changed: _ } => format!("{} key(s)", keys.keys.len()),
        KeySource::Remote(Remote::KeySet(endpoint)) => format!("keys from {endpoint}"),
        KeySource::Remote(Remote::Discovery(endpoint)) => format!("keys by discovery at {endpoint}"),
    }
}

fn rule_text(title: &str, rule: &ChannelRule) -> String {
    let ChannelRule {
        pattern: _,
        claim_pattern,
        deny,
        subscribers,
        limits,
        slow_consumer,
        compress,
        backlog_messages,
        backlog_age,
        backlog_bytes,
        replies,
    } = rule;
    let mut text = String::new();
    line(&mut text, 0, title);
    if let Some(pattern) = claim_pattern {
        line(&mut text, 1, &format!("each belongs to the principal whose claims fill {:?}", pattern.text()));
    }
    line(&mut text, 1, &format!("subscribers: {}", audience_text(subscribers)));
    deny.iter().for_each(|denied| line(&mut text, 1, &format!("denied: a token with {}", requirements_text(denied))));
    let limits = [
        ("max_connections", limits.max_connections),
        ("max_messages", limits.max_messages),
        ("max_data_bytes", limits.max_data_bytes),
        ("max_message_bytes", limits.max_message_bytes),
        ("lifespan_secs", limits.lifespan.as_secs()),
    ];
    for (name, limit) in limits.into_iter().filter(|(_, limit)| *limit > 0) {
        line(&mut text, 1, &format!("{name}: {limit}"));
    }
    let backlog = match (backlog_messages, backlog_age.as_secs()) {
        (0, _) => "none".to_owned(),
        (messages, 0) => format!("{messages} messages"),
        (messages, secs) => format!("{messages} messages, {secs} s"),
    };
    let backlog = match (backlog_messages, backlog_bytes) {
        (0, _) | (_, 0) => backlog,
        (_, bytes) => format!("{backlog}, {bytes} bytes"),
    };
    line(&mut text, 1, &format!("backlog: {backlog}"));
    let slow = match slow_consumer {
        SlowConsumer::Disconnect => "disconnect",
        SlowConsumer::Latest => "latest",
    };
    line(&mut text, 1, &format!("slow_consumer: {slow}"));
    if !compress {
        line(&mut text, 1, "never compressed");
    }
    if *replies {
        line(&mut text, 1, "replies: subscribers may reply to the publisher");
    }
    text
}

fn audience_text(audience: &Audience) -> String {
    match audience {
        Audience::Anyone => "anyone, even without a token".to_owned(),
        Audience::Authenticated => "any valid token".to_owned(),
        Audience::Matching(any) => {
            let any: Vec<_> = any.iter().map(requirements_text).collect();
            format!("a token with {}", any.join(", or with "))
        }
    }
}

fn requirements_text(requirements: &Requirements) -> String {
    let Requirements { issuer, scope, groups, claims } = requirements;
    let issuer = issuer.iter().map(|issuer| format!("the issuer {issuer:?}"));
    let scope = scope.iter().map(|scope| format!("the scope {scope:?}"));
    let groups =
        (!groups.is_empty()).then(|| format!("a group of {}", listed(groups.iter().map(String::as_str)))).into_iter();
    let claims = claims.iter().map(|(name, value)| format!("{name} = {value}"));
    issuer.chain(scope).chain(groups).chain(claims).collect::<Vec<_>>().join(" and ")
}

fn listed<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let list = items.collect::<Vec<_>>().join(", ");
    if list.is_empty() { "none".to_owned() } else { list }
}

fn line(text: &mut String, level: usize, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:indent$}{content}", "", indent = level * 2);
}
