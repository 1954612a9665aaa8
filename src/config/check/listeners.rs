//! Listeners: addresses, roles, TLS.

use std::collections::{BTreeMap, BTreeSet};

use super::channels::check_pattern;
use super::numbers::Numbers;
use super::{address, name};
use crate::broker::ChannelRules;
use crate::config::files::{Files, READABLE_SECRET, is_world_readable, open};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Listener, Tls};
use crate::config::suggest::one_of;
use crate::protocol::Pattern;
use crate::transport::config::{Address, ListenerConfig, Role, SocketFileConfig, TlsFiles, TslmConfig};

/// Settings for listeners with the role `tslm` only.
const TSLM_KEYS: [&str; 4] =
    ["default_endpoint_permissions", "auth_tokens", "max_message_size", "rate_limit_per_second"];

const PERMISSIONS: [&str; 3] = ["Subscribe", "CreateChannel", "NotifyChannel"];

/// `rooms_are_signed`: rooms are opened with a publisher's signature.
pub fn check(
    listeners: BTreeMap<String, Listener>,
    rooms_are_signed: bool,
    has_trusted_proxies: bool,
    report: &mut Report,
    files: &mut Files,
) -> Vec<ListenerConfig> {
    let mut checked: Vec<ListenerConfig> = Vec::new();
    for (name, listener) in listeners {
        let path = Path::of("listeners").key(&name);
        let Some(listener) = check_one(name, listener, (rooms_are_signed, has_trusted_proxies), &path, report, files)
        else {
            continue;
        };
        let any_port = matches!(listener.address, Address::Tcp(address) if address.port() == 0);
        let other = checked.iter().find(|other| other.address == listener.address && !any_port);
        if let Some(other) = other {
            let right = format!("must not be the address of listeners.{}", other.name);
            report.wrong(&path.key("address"), listener.address.to_string(), right);
        }
        checked.push(listener);
    }
    checked
}

/// Warns of messages that a `tslm` listener takes and a channel then refuses.
pub fn check_message_sizes(listeners: &[ListenerConfig], rules: &ChannelRules, report: &mut Report) {
    for listener in listeners.iter().filter(|it| it.roles.contains(&Role::Tslm) && it.tslm.notify_channel) {
        let size = listener.tslm.max_message_size;
        let all = rules.rules.iter().chain([&rules.default]);
        let smaller = all.filter(|rule| (1..size).contains(&rule.limits.max_message_bytes));
        let shown = smaller.map(|rule| format!("{} ({} bytes)", rule.pattern.as_str(), rule.limits.max_message_bytes));
        let shown = shown.collect::<Vec<_>>().join(", ");
        if !shown.is_empty() {
            let path = Path::of("listeners").key(&listener.name).key("max_message_size");
            report.warn(&path, format_args!("{size} is above max_message_bytes of these channels: {shown}"));
        }
    }
}

fn check_one(
    name: String,
    listener: Listener,
    (rooms_are_signed, has_trusted_proxies): (bool, bool),
    path: &Path,
    report: &mut Report,
    files: &mut Files,
) -> Option<ListenerConfig> {
    let Listener {
        address,
        mode,
        group,
        roles,
        tls,
        plaintext,
        origins,
        hosts,
        public_url,
        max_connections,
        proxy_protocol,
        compression,
        http2,
        default_endpoint_permissions,
        auth_tokens,
        max_message_size,
        rate_limit_per_second,
        channels,
        scope,
        subscribers,
    } = listener;
    name::check(&name, path, report);
    let roles = check_roles(roles, path, report);
    let tls = tls.and_then(|tls| check_tls(tls, &path.key("tls"), report, files));
    address::check_origins(&origins, &path.key("origins"), report);
    address::check_hosts(&hosts, &path.key("hosts"), report);
    let public_url = public_url.and_then(|url| address::check_public_url(&url, &path.key("public_url"), report));
    if !roles.contains(&Role::Tslm) {
        for key in TSLM_KEYS.map(|key| path.key(key)) {
            if report.origins.is_set(&key) {
                report.misplaced(&key, "only for a listener with the role \"tslm\"");
            }
        }
    }
    let is_native = roles.contains(&Role::Subscribe) || roles.contains(&Role::Publish);
    if !is_native && report.origins.is_set(&path.key("compression")) {
        report.misplaced(&path.key("compression"), "only for a listener with the role \"subscribe\" or \"publish\"");
    }
    if !report.origins.is_set(&path.key("tls")) && report.origins.is_set(&path.key("http2")) {
        report.misplaced(&path.key("http2"), "only for a listener with tls");
    }
    let scope = check_scope(scope, roles.contains(&Role::Relay), &path.key("scope"), report);
    let flock_vouches = check_subscribers(subscribers, roles.contains(&Role::Flock), &path.key("subscribers"), report);
    let [subscribe, create_channel, notify_channel] =
        check_permissions(&default_endpoint_permissions, &path.key("default_endpoint_permissions"), report);
    if auth_tokens.iter().any(String::is_empty) {
        report.wrong(&path.key("auth_tokens"), auth_tokens.clone(), "must hold no empty token");
    }
    let mut numbers = Numbers::new(path.clone(), report);
    let tslm = TslmConfig {
        subscribe,
        create_channel,
        notify_channel,
        auth_tokens,
        max_message_size: numbers.bytes("max_message_size", max_message_size, 1),
        rate_limit_per_second: numbers.u32("rate_limit_per_second", rate_limit_per_second, 0),
    };
    let max_connections = numbers.count("max_connections", max_connections, 0);
    let channels = check_channels(channels, &roles, &tslm, path, report);
    let socket_file = SocketFileConfig {
        mode: mode.and_then(|mode| check_mode(&mode, &path.key("mode"), report)),
        group: group.and_then(|group| check_group(&group, &path.key("group"), report)),
    };
    let address = address::check(address, path, report)?;
    if !matches!(address, Address::Unix(_)) {
        for key in ["mode", "group"].map(|key| path.key(key)) {
            if report.origins.is_set(&key) {
                report.misplaced(&key, "only for a listener on a Unix socket");
            }
        }
    } else if proxy_protocol {
        report.misplaced(&path.key("proxy_protocol"), "not for a listener on a Unix socket");
    }
    if proxy_protocol && !has_trusted_proxies {
        let right = "needs trusted_proxies: only its header is believed, and any other peer could choose its address";
        report.misplaced(&path.key("proxy_protocol"), right);
    }
    let is_signed =
        |role: &Role| *role == Role::Publish || (rooms_are_signed && matches!(role, Role::Pair | Role::Relay));
    let verifies_signatures = roles.iter().any(is_signed);
    if verifies_signatures && !address.is_local() && hosts.is_empty() && public_url.is_none() {
        let right = "must list the names by which publishers reach the listener, such as [\"gateway.internal:8081\"]: \
                     a signature is valid for them alone";
        report.missing(path, "hosts", right);
    }
    check_exposure(&address, tls.is_some() || report.origins.is_set(&path.key("tls")), plaintext, path, report);
    Some(ListenerConfig {
        name,
        address,
        roles,
        tls,
        origins,
        hosts,
        public_url,
        verifies_signatures,
        max_connections,
        proxy_protocol,
        socket_file,
        channels,
        compression,
        http2,
        tslm,
        scope,
        flock_vouches,
    })
}

/// The channels that clients without a publisher's key may create and publish to. Without a list it would be every one.
fn check_channels(
    channels: Option<Vec<String>>,
    roles: &BTreeSet<Role>,
    tslm: &TslmConfig,
    listener: &Path,
    report: &mut Report,
) -> Option<Vec<Pattern>> {
    let path = listener.key("channels");
    if channels.is_some() && !roles.contains(&Role::Tslm) && !roles.contains(&Role::FlockPublish) {
        report.misplaced(&path, "only for a listener with the role \"tslm\" or \"flock-publish\"");
    }
    if channels.is_none() && (tslm.create_channel || tslm.notify_channel) {
        let right = "must list the channels that its clients may create and publish to, such as [\"chat.*\"]";
        report.missing(listener, "channels", right);
    }
    let patterns = channels?.into_iter().enumerate();
    Some(patterns.map(|(index, pattern)| check_pattern(&pattern, &path.index(index), report)).collect())
}

/// Parses the mode of a socket file, in octal as `chmod` takes it.
fn check_mode(text: &str, path: &Path, report: &mut Report) -> Option<u32> {
    let digits = Some(text).filter(|text| (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()));
    let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        report.wrong(path, text, "must be an octal mode, such as \"0660\"");
    }
    mode
}

/// Finds the id of a group by its name.
fn check_group(name: &str, path: &Path, report: &mut Report) -> Option<u32> {
    let group = nix::unistd::Group::from_name(name).ok().flatten();
    if group.is_none() {
        report.wrong(path, name, "must be the name of a group of this machine");
    }
    group.map(|group| group.gid.as_raw())
}

/// Beyond loopback, a listener needs TLS or an explicit `plaintext` (RFC 9700 section 2.6 requires end-to-end TLS).
fn check_exposure(address: &Address, has_tls: bool, plaintext: bool, path: &Path, report: &mut Report) {
    if has_tls && plaintext {
        report.wrong(&path.key("plaintext"), true, "must be false with tls");
    }
    if !address.is_local() && !has_tls && !plaintext {
        let right = "must be a loopback address, or have tls, or plaintext = true if a TLS proxy is in front of it";
        report.wrong(&path.key("address"), address.to_string(), right);
    }
}

fn check_roles(names: Vec<String>, listener: &Path, report: &mut Report) -> BTreeSet<Role> {
    let path = listener.key("roles");
    if names.is_empty() {
        let names = Role::NAMES.map(|(name, _)| name).join(", ");
        report.missing(listener, "roles", format_args!("must list the roles of the listener: {names}"));
    }
    let mut roles = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        match Role::NAMES.iter().find(|(known, _)| known == name) {
            Some((_, role)) => {
                roles.insert(*role);
            }
            None => {
                let right = one_of(name, &Role::NAMES.map(|(name, _)| name));
                report.wrong(&path.index(index), name.as_str(), right);
            }
        }
    }
    check_combination(&roles, names, &path, report);
    roles
}

/// Paths of the compatibility protocols collide with each other and with those of the native protocol.
fn check_combination(roles: &BTreeSet<Role>, names: Vec<String>, path: &Path, report: &mut Report) {
    let is_flock = |role: &Role| matches!(role, Role::Flock | Role::FlockPublish);
    let is_shared = |role: Role| roles.contains(&role) && roles.len() > 1;
    if is_shared(Role::Tslm) {
        report.wrong(path, names, "\"tslm\" needs a listener of its own");
    } else if is_shared(Role::Relay) {
        report.wrong(path, names, "\"relay\" needs a listener of its own");
    } else if roles.iter().any(is_flock) && !roles.iter().all(is_flock) {
        report.wrong(path, names, "\"flock\" and \"flock-publish\" need a listener of their own");
    }
}

/// Returns the path prefix of a relay without leading and trailing slashes.
fn check_scope(scope: Option<String>, is_relay: bool, path: &Path, report: &mut Report) -> String {
    let Some(scope) = scope else { return String::new() };
    if !is_relay {
        report.misplaced(path, "only for a listener with the role \"relay\"");
    }
    let bare = scope.trim_matches('/');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    if bare.is_empty() || !bare.bytes().all(allowed) || bare.contains("//") {
        report.wrong(
            path,
            scope.as_str(),
            "must be a path of letters, digits, `-`, `_`, `.` and `~`, such as \"rooms\"",
        );
    }
    bare.to_owned()
}

/// Whether subscribers of the flock dialect, which have no credential, count as authenticated.
fn check_subscribers(word: Option<String>, is_flock: bool, path: &Path, report: &mut Report) -> bool {
    let Some(word) = word else { return false };
    if !is_flock {
        report.misplaced(path, "only for a listener with the role \"flock\"");
    }
    let words = ["anyone", "authenticated"];
    if !words.contains(&word.as_str()) {
        report.wrong(path, word.as_str(), one_of(&word, &words));
    }
    word == "authenticated"
}

fn check_permissions(names: &[String], path: &Path, report: &mut Report) -> [bool; 3] {
    for (index, name) in names.iter().enumerate() {
        if !PERMISSIONS.contains(&name.as_str()) {
            report.wrong(&path.index(index), name.as_str(), one_of(name, &PERMISSIONS));
        }
    }
    PERMISSIONS.map(|permission| names.iter().any(|name| name == permission))
}

/// Checks that the files exist. Their content is read when the listener starts.
fn check_tls(tls: Tls, path: &Path, report: &mut Report, files: &mut Files) -> Option<TlsFiles> {
    let Tls { certificate, key } = tls;
    let mut file = |name: &str, file: Option<String>, right: &str| {
        let Some(file) = file else {
            report.missing(path, name, right);
            return None;
        };
        let found = files.locate(&file);
        match open(&found) {
            Ok(_) => {
                if name == "key" && is_world_readable(&found) {
                    report.warn(&path.key(name), READABLE_SECRET);
                }
                Some(found)
            }
            Err(reason) => {
                report.wrong(&path.key(name), file, format_args!("{right} ({reason})"));
                None
            }
        }
    };
    let certificate = file("certificate", certificate, "must be a PEM file with the certificate and its chain");
    let key = file("key", key, "must be a PEM file with the certificate's private key");
    Some(TlsFiles { certificate: certificate?, key: key? })
}
