//! `[rooms]`: limits of rooms.

settings! {
    pub struct Rooms {
        pub max_exchanges: Option<u64>,
        pub max_data_bytes: u64 = 0,
        pub conn_lifespan_secs: Option<u64>,
        pub client_timeout_secs: u64 = 60,
        pub heartbeat_interval_secs: u64 = 5,
        pub max_connections: u64 = 3,
        pub geoip: bool = false,
        pub max_rooms: u64 = 100_000,
        pub max_rooms_per_address: Option<u64>,
        pub max_message_bytes: u64 = 65_536,
        pub open: String = "anyone".to_owned(),
        pub max_seats: u64 = 2,
        pub resume_secs: u64 = 30,
        pub resume_messages: u64 = 64,
        pub resume_bytes: u64 = 262_144,
        pub code_secs: u64 = 120,
        pub code_attempts: u64 = 3,
        pub relay_strict: bool = false,
    }
}
