//! Rooms: their limits, and who may open one.

use super::limits::Numbers;
use crate::broker::room::{RoomCaps, RoomLimits};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::config::suggest::one_of;
use crate::transport::config::{OpenTo, RoomsConfig};

/// What a room may use if the operator says nothing: enough for a pairing of the channelserver's clients.
const MAX_EXCHANGES: u64 = 10;
const LIFESPAN_SECS: u64 = 300;

/// A short code is no secret for long.
const MAX_CODE_SECS: u64 = 300;

/// Each peer of a room hears all others, under one lock.
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
    // Clients of the relay were never limited; an operator who says a limit means them too.
    let relay = RoomCaps {
        max_exchanges: exchanges_or(0),
        max_data_bytes,
        lifespan: numbers.secs("conn_lifespan_secs", lifespan_or(0), 0),
    };
    let limits = RoomLimits {
        max_exchanges: numbers.count("max_exchanges", exchanges_or(MAX_EXCHANGES), 0),
        max_data_bytes,
        lifespan: numbers.secs("conn_lifespan_secs", lifespan_or(LIFESPAN_SECS), 0),
        relay: Some(relay),
        max_connections: numbers.places("max_connections", max_connections),
        max_rooms: numbers.count("max_rooms", max_rooms, 1),
        max_rooms_per_address: numbers.count("max_rooms_per_address", max_rooms_per_address, 0),
        max_seats: numbers.places("max_seats", max_seats),
        resume: numbers.secs("resume_secs", resume_secs, 0),
        resume_messages: numbers.places("resume_messages", resume_messages),
        resume_bytes: numbers.size("resume_bytes", resume_bytes, 1),
        code: numbers.secs("code_secs", code_secs, 1),
        code_attempts: numbers.small("code_attempts", code_attempts, 1),
    };
    RoomsConfig {
        limits,
        heartbeat: numbers.secs("heartbeat_interval_secs", heartbeat_interval_secs, 1),
        client_timeout: numbers.secs("client_timeout_secs", client_timeout_secs, 0),
        max_message_bytes: numbers.size("max_message_bytes", max_message_bytes, 1),
        open,
        relay_strict,
        geoip,
    }
}

fn check_open(word: &str, rooms: &Path, report: &mut Report) -> OpenTo {
    match OpenTo::NAMES.iter().find(|(name, _)| *name == word) {
        Some((_, open)) => *open,
        None => {
            report.wrong(&rooms.key("open"), word, one_of(word, &OpenTo::NAMES.map(|(name, _)| name)));
            OpenTo::Publisher
        }
    }
}
