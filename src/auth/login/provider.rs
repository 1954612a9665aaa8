//! Requests to a provider: the authorization URL (RFC 6749 section 4.1, RFC 7636) and the exchange of the code.

use std::pin::Pin;
use std::time::Duration;

use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AccessToken, AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, Client, ClientId, CsrfToken, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::active::{Active, ProviderConfig};
use super::error::LoginError;
use super::pending::Pending;
use super::return_to::ReturnTo;
use crate::auth::fetch::{Endpoint, FetchError, Fetcher};
use crate::auth::token::{Issuers, ProviderMetadata, strings};
use crate::ops::log::folded;

/// The login part of a provider's discovery document.
pub struct Endpoints {
    /// URL for browsers.
    pub authorization: String,
    pub token: Endpoint,
    /// URL at which browsers log out.
    pub end_session: Option<String>,
    /// Every authorization response has `iss` (RFC 9207).
    pub sends_iss: bool,
    /// The client secret is sent in the form, because the provider does not accept the header.
    pub secret_in_form: bool,
}

/// The tokens that a code was exchanged for. No `Debug`: they are secret.
pub struct Redeemed {
    pub id_token: String,
    /// For `at_hash` only.
    pub access_token: String,
    /// The granted scopes.
    pub scopes: Vec<String>,
}

/// The reply of a token endpoint (RFC 6749 section 5.1), without the members that are of no use here. No `Debug` of its
/// own: it is secret.
#[derive(Serialize, Deserialize)]
struct TokenReply {
    access_token: AccessToken,
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    scope: Option<Value>,
}

impl std::fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenReply")
    }
}

impl TokenResponse for TokenReply {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &BasicTokenType::Bearer
    }

    fn expires_in(&self) -> Option<Duration> {
        None
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        None
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

type OidcClient = Client<
    BasicErrorResponse,
    TokenReply,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// The scopes in a `scope` parameter.
fn scopes_of(text: &str) -> Vec<String> {
    text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

/// 256 random bits in base64url.
pub fn random() -> String {
    CsrfToken::new_random_len(32).into_secret()
}

impl Endpoints {
    /// Waits for the first discovery document, if the provider was never reached.
    pub async fn of(issuers: &Issuers, issuer: &str) -> Result<Self, LoginError> {
        let metadata = issuers.metadata(issuer).await;
        let metadata = metadata.map_err(|_| LoginError::Unavailable("no discovery document"))?;
        let ProviderMetadata { authorization_endpoint, token_endpoint, end_session_endpoint, .. } = &*metadata;
        let methods = &metadata.token_endpoint_auth_methods;
        let accepts = |method: &str| methods.iter().any(|known| known == method);
        Ok(Self {
            authorization: authorization_endpoint.as_ref().map(Endpoint::to_string).ok_or(NO_LOGIN)?,
            token: token_endpoint.clone().ok_or(NO_LOGIN)?,
            end_session: end_session_endpoint.as_ref().map(Endpoint::to_string),
            sends_iss: metadata.authorization_response_iss,
            secret_in_form: accepts("client_secret_post") && !accepts("client_secret_basic"),
        })
    }
}

const NO_LOGIN: LoginError = LoginError::Unavailable("discovery document without login endpoints");

impl Active {
    /// Begins a login. Returns the authorization URL and the state for the browser.
    pub fn begin(
        &self,
        provider: &ProviderConfig,
        endpoints: &Endpoints,
        return_to: ReturnTo,
    ) -> Result<(String, Pending), LoginError> {
        let client = self.client(provider, endpoints)?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = random();
        let (url, state) = client
            .authorize_url(|| CsrfToken::new(random()))
            .add_scopes(provider.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .add_extra_param("nonce", nonce.as_str())
            .url();
        let pending = Pending {
            state: state.into_secret(),
            nonce,
            verifier: verifier.into_secret(),
            issuer: provider.issuer.clone(),
            return_to,
        };
        Ok((url.into(), pending))
    }

    /// Exchanges the code of a callback for an ID token.
    pub async fn redeem(
        &self,
        provider: &ProviderConfig,
        endpoints: &Endpoints,
        fetcher: &Fetcher,
        pending: &Pending,
        code: &str,
    ) -> Result<Redeemed, LoginError> {
        let client = self.client(provider, endpoints)?;
        let http = Http { fetcher, endpoint: &endpoints.token };
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(pending.verifier.clone()));
        let tokens = request.request_async(&http).await.map_err(|error| match error {
            RequestTokenError::Request(error) => {
                folded!(WARN, provider.name, "token request failed", %error, provider = provider.name);
                LoginError::Unavailable("token endpoint")
            }
            // The description may repeat the request, so the log has the error code only.
            RequestTokenError::ServerResponse(answer) => {
                let (error, provider) = (answer.error(), &provider.name);
                folded!(WARN, provider, "token endpoint refused the code", error = error.as_ref(), provider);
                LoginError::CodeRefused("error response")
            }
            _ => LoginError::CodeRefused("unreadable response"),
        })?;
        let granted = match &tokens.scope {
            Some(Value::String(scopes)) => Some(scopes_of(scopes)),
            Some(list @ Value::Array(_)) => Some(strings(list)),
            _ => None,
        };
        Ok(Redeemed {
            access_token: tokens.access_token.secret().clone(),
            id_token: tokens.id_token.ok_or(LoginError::CodeRefused("no ID token"))?,
            // RFC 6749 section 5.1: an absent scope equals the requested one.
            scopes: granted.unwrap_or_else(|| provider.scopes.clone()),
        })
    }

    fn client(&self, provider: &ProviderConfig, endpoints: &Endpoints) -> Result<OidcClient, LoginError> {
        const BAD_URL: LoginError = LoginError::Unavailable("invalid URL in the discovery document");
        let client = Client::new(ClientId::new(provider.client_id.clone()))
            .set_auth_uri(AuthUrl::new(endpoints.authorization.clone()).map_err(|_| BAD_URL)?)
            .set_token_uri(TokenUrl::new(endpoints.token.to_string()).map_err(|_| BAD_URL)?)
            .set_redirect_uri(RedirectUrl::new(self.redirect_uri()).map_err(|_| BAD_URL)?)
            .set_auth_type(if endpoints.secret_in_form { AuthType::RequestBody } else { AuthType::BasicAuth });
        Ok(match &provider.client_secret {
            Some(secret) => client.set_client_secret(secret.clone()),
            None => client,
        })
    }
}

/// HTTP client of `oauth2`, by way of [`Fetcher`] with its limits on addresses and sizes.
struct Http<'a> {
    fetcher: &'a Fetcher,
    endpoint: &'a Endpoint,
}

impl<'c> AsyncHttpClient<'c> for Http<'_> {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let fetched = self.fetcher.post_form(self.endpoint, head.headers, body).await?;
            if fetched.status.is_server_error() {
                return Err(HttpError::Status(fetched.status));
            }
            let mut response = HttpResponse::new(fetched.body.to_vec());
            *response.status_mut() = fetched.status;
            *response.headers_mut() = fetched.headers;
            Ok(response)
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("response status {0}")]
    Status(http::StatusCode),
}
