//! Logout: redirect to the provider (OpenID Connect RP-Initiated Logout 1.0), and logout tokens of the provider
//! (OpenID Connect Back-Channel Logout 1.0).

use oauth2::url::Url;
use serde_json::{Map, Value};

use super::active::{Active, LOGGED_OUT, ProviderConfig};
use super::claims::{check_client, issued_within, optional_text, signed};
use super::error::LoginError;
use crate::auth::token::{Issuers, whole_seconds};

/// Longest delivery time of a logout token, in seconds.
pub const MAX_LOGOUT_TOKEN_AGE_SECS: u64 = 300;

const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A provider's statement that a session, or all sessions of a subject, have ended.
pub struct LogoutToken {
    pub id: String,
    pub subject: Option<String>,
    pub session: Option<String>,
    /// `iat`, seconds since 1970. Later sessions continue.
    pub issued: u64,
}

impl LogoutToken {
    /// Verifies signature and claims. Returns the token with its provider.
    pub async fn verify<'a>(
        login: &'a Active,
        issuers: &Issuers,
        token: &str,
        now: u64,
    ) -> Result<(&'a ProviderConfig, Self), LoginError> {
        let claimed = issuers.unverified_issuer(token).map_err(|_| LoginError::Untrusted("malformed token"))?;
        let provider = login.provider_of(&claimed).ok_or(LoginError::Claim("iss"))?;
        let (claims, _) = signed(issuers, &provider.issuer, token, &["logout+jwt", "jwt"], now).await?;
        Ok((provider, Self::check(&claims, provider, now)?))
    }

    /// Section 2.6, after the signature.
    fn check(claims: &Map<String, Value>, provider: &ProviderConfig, now: u64) -> Result<Self, LoginError> {
        check_client(claims, provider)?;
        let issued = issued_within(claims, MAX_LOGOUT_TOKEN_AGE_SECS, now)?;
        // Older providers omit it.
        if let Some(expires) = claims.get("exp")
            && whole_seconds(expires).is_none_or(|expires| now >= expires.saturating_add(60))
        {
            return Err(LoginError::Claim("exp"));
        }
        if !claims.get("events").and_then(|events| events.get(LOGOUT_EVENT)).is_some_and(Value::is_object) {
            return Err(LoginError::Claim("events"));
        }
        // An ID token with a nonce must not pass as a logout token.
        if claims.contains_key("nonce") {
            return Err(LoginError::Claim("nonce"));
        }
        let text = |name| optional_text(claims, name).map(|text| text.map(str::to_owned));
        let (subject, session) = (text("sub")?, text("sid")?);
        if subject.is_none() && session.is_none() {
            return Err(LoginError::Claim("sid"));
        }
        Ok(Self { id: text("jti")?.ok_or(LoginError::Claim("jti"))?, subject, session, issued })
    }
}

/// The URL at which a browser logs out at the provider too.
pub fn logout_url(login: &Active, provider: &ProviderConfig, end_session: &str) -> Option<String> {
    let mut url = Url::parse(end_session).ok()?;
    url.query_pairs_mut()
        .append_pair("client_id", &provider.client_id)
        .append_pair("post_logout_redirect_uri", &login.url_of(LOGGED_OUT));
    Some(url.into())
}
