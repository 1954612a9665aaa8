//! Converts settings to the checked configuration. Mistakes go into the report, and a placeholder replaces a wrong
//! value, so that one run finds all mistakes.

mod address;
mod channels;
mod dangers;
mod egress;
mod engine;
mod geoip;
mod issuers;
mod limits;
mod listeners;
mod log;
mod login;
mod name;
mod numbers;
mod publishers;
mod revocations;
mod rooms;
mod secret_file;
mod statsd;

use std::net::IpAddr;

use ipnet::IpNet;

use super::files::Files;
use super::path::Path;
use super::report::Report;
use super::settings::Settings;
use super::{Config, EngineConfig, PolicyConfig};
use crate::auth::PublisherConfig;
use crate::auth::login::LoginConfig;
use crate::transport::config::OpenTo;

pub use channels::check as check_channels;
pub use issuers::ALGORITHMS;

/// Checks the settings. The result is valid only if the report holds no mistakes.
pub fn check(settings: Settings, report: &mut Report, files: &mut Files) -> Config {
    // Before the settings are destructured, because it looks at several tables.
    let (egress, fetch) = egress::check(&settings, report, files);
    let Settings {
        egress: _,
        egress_private_hosts: _,
        egress_ca: _,
        trusted_proxies,
        listeners,
        publishers,
        mut issuers,
        login,
        channels,
        channel_defaults,
        revocations_file,
        engine,
        limits,
        rooms,
        geoip,
        statsd,
        drain,
        log,
    } = settings;
    let trusted_proxies = check_proxies(trusted_proxies, report);
    let issuer_scopes = issuers::check_scopes(&issuers, report);
    let rooms = rooms::check(rooms, report);
    let listeners =
        listeners::check(listeners, rooms.open == OpenTo::Publisher, !trusted_proxies.is_empty(), report, files);
    dangers::check(&listeners, report);
    let login = login::check(login, &mut issuers, egress, &listeners, report, files);
    let mut channels = channels::check(channels, channel_defaults, report);
    channels.rules.issuers = issuer_scopes;
    issuers::check_patterns(&channels.rules, &issuers, report);
    listeners::check_message_sizes(&listeners, &channels.rules, report);
    let engine = engine::check(engine, report, files);
    let publishers = publishers::check(publishers, report, files);
    if engine == (EngineConfig::Memory { ledger: None }) {
        warn_of_restarts(login.as_ref(), &publishers, !issuers.is_empty(), report);
    }
    Config {
        egress,
        engine,
        fetch,
        listeners,
        limits: limits::check(limits, trusted_proxies, report),
        geoip: geoip::check(geoip, rooms.geoip, report, files),
        statsd: statsd::check(statsd, report),
        rooms,
        drain: limits::check_drain(drain, report),
        log: log::check(log, report),
        policy: PolicyConfig {
            publishers,
            issuers: issuers::check(issuers, report, files),
            channels,
            revocations: revocations::check(revocations_file, report, files),
            login,
        },
    }
}

/// With the memory engine a restart forgets what ended a right.
fn warn_of_restarts(
    login: Option<&LoginConfig>,
    publishers: &[PublisherConfig],
    has_issuers: bool,
    report: &mut Report,
) {
    let kind = Path::of("engine").key("kind");
    if login.is_some_and(|login| !login.seal_keys.is_empty()) {
        report.warn(
            &kind,
            "\"memory\" ends all sessions with this process, also with seal keys; engine.ledger keeps them",
        );
    }
    if has_issuers && publishers.iter().any(|publisher| publisher.control) {
        let text = "\"memory\" forgets revocations and policy of control requests with this process; engine.ledger keeps \
                    them, and revocations_file is read at each start";
        report.warn(&kind, text);
    }
}

fn check_proxies(proxies: Vec<String>, report: &mut Report) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for (index, proxy) in proxies.into_iter().enumerate() {
        let path = Path::of("trusted_proxies").index(index);
        let address = proxy.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        match address.or_else(|_| proxy.parse::<IpNet>()) {
            Ok(range) => {
                if range.prefix_len() == 0 {
                    report.warn(&path, format_args!("{range} lets every client choose its address"));
                }
                ranges.push(range.trunc());
            }
            Err(_) => report.wrong(&path, proxy, "must be an IP address or a range, such as 10.0.0.0/8"),
        }
    }
    ranges
}
