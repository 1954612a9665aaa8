//! Discovery document of a provider (OpenID Connect Discovery 1.0 section 3, RFC 8414).

use serde::Deserialize;

use super::document::shortened;
use crate::auth::fetch::{Endpoint, EndpointError};

/// The used members of a discovery document.
#[derive(Clone, Debug)]
pub struct ProviderMetadata {
    /// Equal to the configured issuer.
    pub issuer: String,
    pub jwks: Endpoint,
    /// Where browsers begin a login.
    pub authorization_endpoint: Option<Endpoint>,
    pub token_endpoint: Option<Endpoint>,
    /// Client authentication at the token endpoint; `client_secret_basic` if the document has none.
    pub token_endpoint_auth_methods: Vec<String>,
    /// Where browsers log out.
    pub end_session_endpoint: Option<Endpoint>,
    /// Authorization responses have `iss` (RFC 9207).
    pub authorization_response_iss: bool,
    /// OpenID Connect Back-Channel Logout 1.0.
    pub backchannel_logout: bool,
    /// Logout tokens have `sid`.
    pub backchannel_logout_session: bool,
}

/// Why a discovery document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error("not a discovery document: {0}")]
    NotADocument(String),
    /// The document is of another issuer (OpenID Connect Discovery 1.0 section 4.3).
    #[error("the discovery document is of another issuer")]
    IssuerMismatch,
    #[error("{0} in the discovery document: {1}")]
    Endpoint(&'static str, EndpointError),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    #[serde(default = "default_auth_methods")]
    token_endpoint_auth_methods_supported: Vec<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    backchannel_logout_supported: bool,
    #[serde(default)]
    backchannel_logout_session_supported: bool,
}

impl ProviderMetadata {
    /// Parses the document at `at`. Refuses one of another issuer.
    pub fn read(document: &[u8], issuer: &str, at: &Endpoint) -> Result<Self, ProviderError> {
        let document: Document =
            serde_json::from_slice(document).map_err(|error| ProviderError::NotADocument(shortened(&error)))?;
        if document.issuer != issuer {
            return Err(ProviderError::IssuerMismatch);
        }
        let endpoint = |name, url: &str| at.discovered(url).map_err(|error| ProviderError::Endpoint(name, error));
        let optional = |name, url: Option<String>| url.map(|url| endpoint(name, &url)).transpose();
        Ok(Self {
            jwks: endpoint("jwks_uri", &document.jwks_uri)?,
            authorization_endpoint: optional("authorization_endpoint", document.authorization_endpoint)?,
            token_endpoint: optional("token_endpoint", document.token_endpoint)?,
            token_endpoint_auth_methods: document.token_endpoint_auth_methods_supported,
            end_session_endpoint: optional("end_session_endpoint", document.end_session_endpoint)?,
            authorization_response_iss: document.authorization_response_iss_parameter_supported,
            backchannel_logout: document.backchannel_logout_supported,
            backchannel_logout_session: document.backchannel_logout_session_supported,
            issuer: document.issuer,
        })
    }
}

/// URL of an issuer's discovery document (OpenID Connect Discovery 1.0 section 4).
pub fn discovery_endpoint(issuer: &str) -> Result<Endpoint, EndpointError> {
    if issuer.contains('?') {
        return Err(EndpointError::NotAUrl);
    }
    Endpoint::configured(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))
}

fn default_auth_methods() -> Vec<String> {
    vec!["client_secret_basic".to_owned()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn document_must_match_issuer_and_endpoints() {
        let at = discovery_endpoint("https://sso.example/realm/").unwrap();
        assert_eq!(at.to_string(), "https://sso.example/realm/.well-known/openid-configuration");
        let read = |document: serde_json::Value| {
            ProviderMetadata::read(document.to_string().as_bytes(), "https://sso.example/realm/", &at)
        };
        let good = || {
            json!({"issuer": "https://sso.example/realm/", "jwks_uri": "https://keys.example/jwks",
                   "token_endpoint": "https://sso.example/token", "authorization_response_iss_parameter_supported": true})
        };
        let metadata = read(good()).unwrap();
        assert!(metadata.authorization_response_iss && !metadata.backchannel_logout);
        assert_eq!(metadata.token_endpoint.unwrap().to_string(), "https://sso.example/token");
        let with = |name: &str, value: &str| {
            let mut document = good();
            document[name] = value.into();
            read(document).unwrap_err()
        };
        assert_eq!(with("issuer", "https://sso.example/realm"), ProviderError::IssuerMismatch);
        assert_eq!(
            with("jwks_uri", "http://keys.example/"),
            ProviderError::Endpoint("jwks_uri", EndpointError::NotHttps)
        );
        for url in ["http://127.0.0.1/", "/token", "file:///x"] {
            assert!(matches!(with("token_endpoint", url), ProviderError::Endpoint("token_endpoint", _)), "{url}");
        }
        for text in ["", "[]", "{}", r#"{"issuer":1}"#] {
            assert!(ProviderMetadata::read(text.as_bytes(), "i", &at).is_err(), "{text}");
        }
    }
}
