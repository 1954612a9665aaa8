//! `[[issuers]]` and `[login]`: identity providers.

use super::one_or_many::OneOrMany;

settings! {
    pub struct Issuer {
        pub issuer: Option<String>,
        pub name: Option<String>,
        pub audience: Option<OneOrMany>,
        pub audience_claim: String = "aud".to_owned(),
        pub known_audiences: Vec<String>,
        pub groups_claim: String = "groups".to_owned(),
        pub jwks_file: Option<String>,
        pub jwks_url: Option<String>,
        pub discovery: bool = false,
        pub jwks_max_age_secs: Option<u64>,
        pub algorithms: Vec<String> = ["ES256", "EdDSA", "RS256"].map(str::to_owned).into(),
        pub typ: Option<String>,
        pub leeway_secs: u64 = 30,
        pub max_lifetime_secs: u64 = 86_400,
        pub channels: Option<Vec<String>>,
        pub login: Option<IssuerLogin>,
    }

    /// The gateway's registration as a client of the issuer, for logins.
    pub struct IssuerLogin {
        pub client_id: Option<String>,
        pub client_secret_file: Option<String>,
        pub scopes: Vec<String> = vec!["openid".to_owned()],
        pub name: Option<String>,
    }

    pub struct Login {
        pub url: Option<String>,
        pub seal_keys: Vec<String>,
        pub session_secs: u64 = 28_800,
    }
}
