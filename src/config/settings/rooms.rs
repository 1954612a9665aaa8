//! `[rooms]`: limits of rooms.

use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rooms {
    pub max_exchanges: Option<u64>,
    pub max_data_bytes: u64,
    pub conn_lifespan_secs: Option<u64>,
    pub client_timeout_secs: u64,
    pub heartbeat_interval_secs: u64,
    pub max_connections: u64,
    pub geoip: bool,
    pub max_rooms: u64,
    pub max_rooms_per_address: Option<u64>,
    pub max_message_bytes: u64,
    pub open: String,
    pub max_seats: u64,
    pub resume_secs: u64,
    pub resume_messages: u64,
    pub resume_bytes: u64,
    pub code_secs: u64,
    pub code_attempts: u64,
    pub relay_strict: bool,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            max_exchanges: None,
            max_data_bytes: 0,
            conn_lifespan_secs: None,
            client_timeout_secs: 60,
            heartbeat_interval_secs: 5,
            max_connections: 3,
            geoip: false,
            max_rooms: 100_000,
            max_rooms_per_address: None,
            max_message_bytes: 65_536,
            open: "anyone".to_owned(),
            max_seats: 2,
            resume_secs: 30,
            resume_messages: 64,
            resume_bytes: 262_144,
            code_secs: 120,
            code_attempts: 3,
            relay_strict: false,
        }
    }
}
