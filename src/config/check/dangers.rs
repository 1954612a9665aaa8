//! Settings that are valid and dangerous: a warning with its reason each, and an error with `lastmile check --strict`.

use crate::config::path::Path;
use crate::config::report::Report;
use crate::transport::config::{Address, ListenerConfig, Role};

/// Roles for clients outside of the operator's network.
const CLIENT_ROLES: [Role; 4] = [Role::Subscribe, Role::Pair, Role::Login, Role::Relay];

pub fn check(listeners: &[ListenerConfig], report: &mut Report) {
    for listener in listeners {
        check_listener(listener, &Path::of("listeners").key(&listener.name), report);
    }
}

fn check_listener(listener: &ListenerConfig, path: &Path, report: &mut Report) {
    let (is_ops, is_local) = (has_any(listener, &[Role::Ops]), listener.address.is_local());
    if is_ops && has_any(listener, &CLIENT_ROLES) {
        let reason = "metrics and health are served to every client; give \"ops\" a listener of its own";
        report.warn(&path.key("roles"), reason);
    }
    // Where a proxy terminates TLS, clients reach the listener by an https URL.
    let is_encrypted =
        listener.tls.is_some() || listener.public_url.as_ref().is_some_and(|url| url.origin().starts_with("https:"));
    if !is_local && is_ops && listener.tls.is_none() {
        let reason = "metrics cross the network in plain text; bind \"ops\" to loopback, or set tls";
        report.warn(&path.key("plaintext"), reason);
    }
    if !is_local && !is_encrypted && has_any(listener, &[Role::Publish, Role::FlockPublish]) {
        let reason = "publications, and passwords if there are any, cross the network in plain text; set tls, or the \
                      https URL of the TLS proxy in front of it as public_url";
        report.warn(&path.key("plaintext"), reason);
    }
    let has_names = !listener.hosts.is_empty() || listener.public_url.is_some();
    if listener.verifies_signatures && !has_names && matches!(listener.address, Address::Unix(_)) {
        let reason = "is not set: a request that is signed for \"localhost\" is valid on every gateway with this key";
        report.warn(&path.key("hosts"), reason);
    }
    if !is_local && has_any(listener, &[Role::Tslm]) && listener.tslm.auth_tokens.is_empty() {
        let reason = "is empty beyond loopback: every client that reaches the listener has its permissions";
        report.warn(&path.key("auth_tokens"), reason);
    }
    if !is_local && listener.flock_vouches {
        let reason =
            "is \"authenticated\" beyond loopback: every client that reaches the listener counts as one with a token";
        report.warn(&path.key("subscribers"), reason);
    }
}

fn has_any(listener: &ListenerConfig, roles: &[Role]) -> bool {
    roles.iter().any(|role| listener.roles.contains(role))
}
