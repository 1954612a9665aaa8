//! Logging out: at the provider by way of the browser (OpenID Connect RP-Initiated Logout 1.0), and on the provider's
//! word alone (OpenID Connect Back-Channel Logout 1.0).

use oauth2::url::Url;
use serde_json::{Map, Value};

use super::claims::{check_client, issued_within, optional_text, signed};
use super::{Active, LOGGED_OUT, LoginError, ProviderConfig};
use crate::auth::token::{Issuers, Unproven};

/// Seconds that a logout token may be on its way.
pub const MAX_AGE: u64 = 300;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What a provider says about a session, or about all of a person.
pub struct LogoutToken {
    pub id: String,
    pub subject: Option<String>,
    pub session: Option<String>,
    /// `iat`, seconds since 1970: what was issued later goes on.
    pub issued: u64,
}

impl LogoutToken {
    /// Checks signature and claims; gives the provider that it comes from, too.
    pub async fn verify<'a>(
        login: &'a Active,
        issuers: &Issuers,
        token: &str,
        now: u64,
    ) -> Result<(&'a ProviderConfig, Self), LoginError> {
        let said = Unproven::read(token).map_err(|_| LoginError::Untrusted("it cannot be read"))?;
        let provider = login.provider_of(&said.issuer).ok_or(LoginError::Claim("iss"))?;
        let (claims, _) = signed(issuers, &provider.issuer, token, &["logout+jwt", "jwt"], now).await?;
        Ok((provider, Self::check(&claims, provider, now)?))
    }

    /// Section 2.6, once the signature is known to be good.
    fn check(claims: &Map<String, Value>, provider: &ProviderConfig, now: u64) -> Result<Self, LoginError> {
        check_client(claims, &provider.client_id)?;
        let issued = issued_within(claims, MAX_AGE, now)?;
        // Older providers send none.
        if let Some(expires) = claims.get("exp")
            && expires.as_u64().is_none_or(|expires| now >= expires.saturating_add(60))
        {
            return Err(LoginError::Claim("exp"));
        }
        if !claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object) {
            return Err(LoginError::Claim("events"));
        }
        // With it, an ID token could pass for this.
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

/// Where a browser goes to log out at the provider too.
pub fn logout_url(login: &Active, provider: &ProviderConfig, end_session: &str) -> Option<String> {
    let mut url = Url::parse(end_session).ok()?;
    url.query_pairs_mut()
        .append_pair("client_id", &provider.client_id)
        .append_pair("post_logout_redirect_uri", &format!("{}{LOGGED_OUT}", login.url()));
    Some(url.into())
}
