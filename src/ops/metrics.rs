//! The metrics of a gateway and their recorder. Handles must be created while the recorder is current.

use metrics::{describe_counter, describe_gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Name, whether it is a counter, and description of every metric.
pub const METRICS: &[(&str, bool, &str)] = &[
    ("lastmile_connections", false, "Open connections: WebSockets and fallbacks"),
    ("lastmile_connections_total", true, "Connections since the start; each poll counts as one"),
    ("lastmile_fallback_connections", false, "Open event streams and polls, by transport"),
    ("lastmile_closes_total", true, "Connections that ended, by close reason"),
    ("lastmile_sockets", false, "Open sockets of all listeners"),
    ("lastmile_sockets_refused_total", true, "Sockets and requests refused by a connection limit"),
    ("lastmile_channels", false, "Channels that exist"),
    ("lastmile_channels_max", false, "`limits.max_channels`"),
    ("lastmile_waiting_names", false, "Names that subscribers wait for and no publisher has used"),
    ("lastmile_waiting_names_max", false, "`limits.max_waiting_names`"),
    ("lastmile_subscriptions", false, "Subscriptions of all connections"),
    ("lastmile_backlog_bytes", false, "Bytes of all backlogs in memory"),
    ("lastmile_engine_commits_total", true, "Transactions of the disk engine; each writes all waiting publications"),
    ("lastmile_engine_failures_total", true, "Failed writes of the disk engine, which refused publications"),
    ("lastmile_engine_disk_bytes", false, "Size of the disk engine's file"),
    (
        "lastmile_engine_up",
        false,
        "1 while the probes of this node through Redis succeed; with `engine.kind = \"redis\"`",
    ),
    (
        "lastmile_cluster_messages_refused_total",
        true,
        "Values and messages in Redis that the cluster key does not authenticate",
    ),
    ("lastmile_publications_total", true, "Publications accepted"),
    ("lastmile_deliveries_total", true, "Publications written to sockets or outboxes of subscribers"),
    ("lastmile_replies_total", true, "Replies of subscribers to publishers, by outcome"),
    ("lastmile_slow_consumers_total", true, "Subscribers closed because their outbox was full"),
    ("lastmile_rooms", false, "Open rooms; a pair of relay peers counts as one"),
    ("lastmile_rooms_opened_total", true, "Rooms opened"),
    ("lastmile_rooms_closed_total", true, "Rooms that ended, by reason"),
    ("lastmile_carried_peers", false, "Connections that are peers of rooms on other nodes"),
    ("lastmile_room_messages_total", true, "Messages relayed between peers of rooms"),
    ("lastmile_room_timeouts_total", true, "Room peers closed by a timeout"),
    ("lastmile_refusals_total", true, "Requests refused, by problem type"),
    ("lastmile_key_fetches_total", true, "Fetches of issuers' keys, by result"),
    ("lastmile_issuer_keys_age_seconds", false, "Seconds since an issuer's keys were last confirmed"),
    ("lastmile_issuer_keys_stale", false, "1 if an issuer's keys are missing or near `jwks_max_age_secs`"),
    ("lastmile_reloads_total", true, "Reloads of the configuration that were applied"),
    ("lastmile_reload_failures_total", true, "Failed reloads; the previous configuration stays in force"),
    ("lastmile_clock_steps_total", true, "Times that the wall clock was set while the gateway ran"),
    ("lastmile_log_lines_dropped_total", true, "Lines of the log that were lost: not written, or read too slowly"),
    ("lastmile_control_changes_total", true, "Changes by control requests, by kind"),
];

/// Creates a recorder for one gateway, so that a process can run several.
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
