//! `[publishers.NAME]`: the whitelist.

settings! {
    pub struct Publisher {
        pub key: Option<String>,
        pub sha256: Option<String>,
        pub basic: Option<Basic>,
        pub channels: Vec<String>,
        pub control: bool,
        pub not_after: Option<String>,
        pub rate_limit_per_second: u64,
    }

    pub struct Basic {
        pub username: Option<String>,
        pub password_argon2: Option<String>,
    }
}
