//! `[engine]`: the store of the backlogs.

use serde::{Deserialize, Serialize};

use super::one_or_many::OneOrMany;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    pub kind: String,
    pub path: Option<String>,
    pub fsync: String,
    pub max_bytes: u64,
    pub url: Option<OneOrMany>,
    pub cluster: bool,
    pub sentinel: Option<String>,
    pub prefix: String,
    pub ca: Option<String>,
    pub password_file: Option<String>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            kind: "memory".to_owned(),
            path: None,
            fsync: "always".to_owned(),
            max_bytes: 4_294_967_296,
            url: None,
            cluster: false,
            sentinel: None,
            prefix: "lastmile".to_owned(),
            ca: None,
            password_file: None,
        }
    }
}
