//! The table `rooms`.

use super::numbers::Numbers;
use crate::broker::room::{RoomCaps, RoomLimits};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::config::suggest::one_of;
use crate::transport::config::{OpenTo, RoomsConfig};

// Defaults of native rooms: enough for a pairing of channelserver's clients.
const DEFAULT_MAX_EXCHANGES: u64 = 10;
const DEFAULT_LIFESPAN_SECS: u64 = 300;

/// A short code can be guessed, so it must expire soon.
const MAX_CODE_SECS: u64 = 300;

/// The least share of an address in the rooms, unless that is more than half of them.
const MIN_ROOMS_PER_ADDRESS: u64 = 64;

/// Each message is delivered to all other peers under one lock.
const MAX_PEERS: u64 = 64;

pub fn check(rooms: settings::Rooms, report: &mut Report) -> RoomsConfig {
    let settings::Rooms {
        max_exchanges,
        max_data_bytes,
        conn_lifespan_secs,
        client_timeout_secs,
        heartbeat_interval_secs,
        max_connections,
        geoip,
        max_rooms,
        max_rooms_per_address,
        max_message_bytes,
        open,
        max_seats,
        resume_secs,
        resume_messages,
        resume_bytes,
        code_secs,
        code_attempts,
        relay_strict,
    } = rooms;
    let path = Path::of("rooms");
    let open = check_open(&open, &path, report);
    if max_rooms_per_address == Some(0) {
        report.warn(&path.key("max_rooms_per_address"), "without a limit, one address may open all rooms (max_rooms)");
    }
    let mut numbers = Numbers::new(path, report);
    for (key, count, least) in [("max_connections", max_connections, 1), ("max_seats", max_seats, 2)] {
        if !(least..=MAX_PEERS).contains(&count) {
            numbers.wrong(key, count, format_args!("must be {least} to {MAX_PEERS}"));
        }
    }
    if !(1..=MAX_CODE_SECS).contains(&code_secs) {
        numbers.wrong("code_secs", code_secs, format_args!("must be 1 to {MAX_CODE_SECS}"));
    }
    let exchanges_or = |unset: u64| max_exchanges.unwrap_or(unset);
    let lifespan_or = |unset: u64| conn_lifespan_secs.unwrap_or(unset);
    let max_data_bytes = numbers.bytes("max_data_bytes", max_data_bytes, 0);
    // Relay clients have no default limits; limits that are set hold for them too.
    let relay = RoomCaps {
        max_exchanges: exchanges_or(0),
        max_data_bytes,
        lifespan: numbers.secs("conn_lifespan_secs", lifespan_or(0), 0),
    };
    let limits = RoomLimits {
        max_exchanges: numbers.count("max_exchanges", exchanges_or(DEFAULT_MAX_EXCHANGES), 0),
        max_data_bytes,
        lifespan: numbers.secs("conn_lifespan_secs", lifespan_or(DEFAULT_LIFESPAN_SECS), 0),
        relay: Some(relay),
        max_connections: numbers.usize_min1("max_connections", max_connections),
        max_rooms: numbers.count("max_rooms", max_rooms, 1),
        max_rooms_per_address: numbers.count(
            "max_rooms_per_address",
            max_rooms_per_address.unwrap_or_else(|| share_of_address(max_rooms)),
            0,
        ),
        max_seats: numbers.usize_min1("max_seats", max_seats),
        resume: numbers.secs("resume_secs", resume_secs, 0),
        resume_messages: numbers.usize_min1("resume_messages", resume_messages),
        resume_bytes: numbers.byte_size("resume_bytes", resume_bytes, 1),
        code: numbers.secs("code_secs", code_secs, 1),
        code_attempts: numbers.u32("code_attempts", code_attempts, 1),
    };
    RoomsConfig {
        limits,
        heartbeat: numbers.secs("heartbeat_interval_secs", heartbeat_interval_secs, 1),
        client_timeout: numbers.secs("client_timeout_secs", client_timeout_secs, 0),
        max_message_bytes: numbers.byte_size("max_message_bytes", max_message_bytes, 1),
        open,
        relay_strict,
        geoip,
    }
}

/// The rooms of one address where no limit is set: 1 % of all.
fn share_of_address(max_rooms: u64) -> u64 {
    (max_rooms / 100).max(MIN_ROOMS_PER_ADDRESS.min(max_rooms / 2)).max(1)
}

fn check_open(name: &str, rooms: &Path, report: &mut Report) -> OpenTo {
    match OpenTo::NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, open)) => *open,
        None => {
            report.wrong(&rooms.key("open"), name, one_of(name, &OpenTo::NAMES.map(|(name, _)| name)));
            OpenTo::Publisher
        }
    }
}
