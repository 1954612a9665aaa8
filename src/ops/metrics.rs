//! The recorder behind `/metrics`. Whoever counts keeps handles, made where the recorder is current.

use metrics::{describe_counter, describe_gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Every metric, whether it is a counter, and what it says.
pub const METRICS: &[(&str, bool, &str)] = &[
    ("lastmile_connections", false, "Connections that are open: WebSockets and fallbacks"),
    ("lastmile_connections_total", true, "Connections since the start; each poll is one"),
    ("lastmile_fallback_connections", false, "Streams and polls that are open, by transport"),
    ("lastmile_closes_total", true, "Connections that ended, by close reason"),
    ("lastmile_sockets", false, "Accepted sockets that are open, on all listeners"),
    ("lastmile_sockets_refused_total", true, "Sockets and requests refused by a limit on connections"),
    ("lastmile_channels", false, "Channels that exist"),
    ("lastmile_subscriptions", false, "Subscriptions of all connections"),
    ("lastmile_backlog_bytes", false, "Memory of all backlogs"),
    ("lastmile_engine_commits_total", true, "Transactions of the disk engine; each writes all that waited"),
    ("lastmile_engine_failures_total", true, "Times that the disk engine could not write and refused publications"),
    ("lastmile_engine_disk_bytes", false, "Size of the disk engine's file"),
    (
        "lastmile_engine_up",
        false,
        "1 while Redis carries and keeps the probes of this node; with `engine.kind = \"redis\"`",
    ),
    ("lastmile_publications_total", true, "Publications accepted"),
    ("lastmile_deliveries_total", true, "Publications handed to subscribers' sockets or outboxes"),
    ("lastmile_replies_total", true, "Replies of subscribers to publishers, by what became of them"),
    ("lastmile_slow_consumers_total", true, "Subscribers closed because their outbox was full"),
    ("lastmile_rooms", false, "Rooms that are open; a pair of the relay form is one"),
    ("lastmile_rooms_opened_total", true, "Rooms opened"),
    ("lastmile_rooms_closed_total", true, "Rooms that ended, by reason"),
    ("lastmile_carried_peers", false, "Connections that are peers of rooms on other nodes"),
    ("lastmile_room_messages_total", true, "Messages relayed between peers of rooms"),
    ("lastmile_room_timeouts_total", true, "Peers of rooms that were silent for too long"),
    ("lastmile_refusals_total", true, "Requests refused, by problem type"),
    ("lastmile_key_fetches_total", true, "Fetches of issuers' keys, by result"),
    ("lastmile_issuer_keys_age_seconds", false, "Time since an issuer's keys were known to be right"),
    ("lastmile_issuer_keys_stale", false, "1 if an issuer's keys are missing or near `jwks_max_age_secs`"),
    ("lastmile_reloads_total", true, "Reloads of the configuration that were applied"),
    ("lastmile_reload_failures_total", true, "Reloads that were refused; the state before them stays"),
    ("lastmile_control_changes_total", true, "Changes made by control requests, by what they change"),
];

/// A recorder of this gateway alone, so that several can live in one process.
pub fn recorder() -> (PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for &(name, is_counter, text) in METRICS {
            if is_counter { describe_counter!(name, text) } else { describe_gauge!(name, text) }
        }
    });
    let handle = recorder.handle();
    (recorder, handle)
}
