//! `[engine]`: the store of the backlogs.

use super::one_or_many::OneOrMany;

settings! {
    pub struct Engine {
        pub kind: String = "memory".to_owned(),
        pub path: Option<String>,
        pub ledger: Option<String>,
        pub fsync: String = "always".to_owned(),
        pub max_bytes: u64 = 4_294_967_296,
        pub url: Option<OneOrMany>,
        pub cluster: bool = false,
        pub sentinel: Option<String>,
        pub prefix: String = "lastmile".to_owned(),
        pub ca: Option<String>,
        pub password_file: Option<String>,
        pub cluster_key: Option<OneOrMany>,
        pub unauthenticated: String = "refuse".to_owned(),
    }
}
