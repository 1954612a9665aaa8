//! Claims of ID tokens (OpenID Connect Core 1.0 section 3.1.3.7), checked after the signature.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use super::active::ProviderConfig;
use super::error::LoginError;
use super::pending::{self, Pending};
use super::provider::Redeemed;
use crate::auth::token::{Issuers, TokenError, strings, whole_seconds};
use crate::broker::claim;
use crate::ops::log::folded;

/// Accepted difference between clocks, in seconds.
const CLOCK_LEEWAY_SECS: u64 = 60;

/// The person who logged in. No `Debug`: it holds personal claims.
pub struct IdToken {
    pub subject: String,
    /// `sid` (OpenID Connect Back-Channel Logout section 2.1).
    pub session: Option<String>,
    /// `iat`, seconds since 1970.
    pub issued: u64,
    pub groups: Vec<String>,
    /// All claims of the token.
    pub claims: Map<String, Value>,
}

impl IdToken {
    /// Verifies signature and claims of a redeemed ID token.
    pub async fn verify(
        issuers: &Issuers,
        provider: &ProviderConfig,
        pending: &Pending,
        redeemed: &Redeemed,
        now: u64,
    ) -> Result<Self, LoginError> {
        let (claims, algorithm) = signed(issuers, &provider.issuer, &redeemed.id_token, &["jwt"], now).await?;
        Self::check(claims, algorithm, provider, pending, &redeemed.access_token, now)
    }

    /// `algorithm` is that of the signature; `now` in seconds since 1970.
    fn check(
        claims: Map<String, Value>,
        algorithm: Algorithm,
        provider: &ProviderConfig,
        pending: &Pending,
        access_token: &str,
        now: u64,
    ) -> Result<Self, LoginError> {
        let text = |name: &'static str| optional_text(&claims, name);
        check_client(&claims, provider)?;
        let nonce = text("nonce")?.ok_or(LoginError::Claim("nonce"))?;
        if !bool::from(nonce.as_bytes().ct_eq(pending.nonce.as_bytes())) {
            return Err(LoginError::Claim("nonce"));
        }
        let expires = claims.get("exp").and_then(whole_seconds).ok_or(LoginError::Claim("exp"))?;
        if now >= expires.saturating_add(CLOCK_LEEWAY_SECS) {
            return Err(LoginError::Claim("exp"));
        }
        let issued = issued_within(&claims, pending::MAX_PENDING_SECS, now)?;
        if claims.contains_key("events") {
            return Err(LoginError::Claim("events"));
        }
        if text("at_hash")?.is_some_and(|hash| hash != half_hash(algorithm, access_token)) {
            return Err(LoginError::Claim("at_hash"));
        }
        let subject = text("sub")?.ok_or(LoginError::Claim("sub"))?.to_owned();
        let session = text("sid")?.map(str::to_owned);
        // No decision rests on what cannot be read there.
        let groups = claim(&claims, &provider.groups_claim).map(strings).unwrap_or_default();
        Ok(Self { subject, session, issued, groups, claims })
    }
}

/// The claims of a token that `issuer` signed, and the algorithm. `typ` must be absent or one of `types`.
pub async fn signed(
    issuers: &Issuers,
    issuer: &str,
    token: &str,
    types: &[&str],
    now: u64,
) -> Result<(Map<String, Value>, Algorithm), LoginError> {
    let untrusted = |error: TokenError| {
        folded!(WARN, error, "token of the provider refused", %error, issuer);
        if error.is_temporary() {
            LoginError::Unavailable("keys of the provider")
        } else {
            LoginError::Untrusted("invalid token")
        }
    };
    let (header, claims) = issuers.signed(issuer, token, now).await.map_err(untrusted)?;
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(LoginError::Claim("iss"));
    }
    let typ = header.typ.map(|typ| typ.to_ascii_lowercase());
    let typ = typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
    if typ.is_some_and(|typ| !types.contains(&typ)) {
        return Err(LoginError::Untrusted("typ of the token"));
    }
    Ok((claims, header.algorithm))
}

/// Checks `aud`, and `azp` of tokens for several audiences, unless all of them are known.
pub fn check_client(claims: &Map<String, Value>, provider: &ProviderConfig) -> Result<(), LoginError> {
    let is_ours = |value: &Value| value.as_str() == Some(&*provider.client_id);
    let is_known = |value: &Value| is_ours(value) || provider.known_audiences.iter().any(|known| value == known);
    let (ours, has_strangers) = match claims.get("aud") {
        Some(Value::Array(all)) => (all.iter().any(is_ours), all.len() > 1 && !all.iter().all(is_known)),
        Some(one) => (is_ours(one), false),
        None => (false, false),
    };
    if !ours {
        return Err(LoginError::Claim("aud"));
    }
    match claims.get("azp") {
        Some(party) if !is_ours(party) => Err(LoginError::Claim("azp")),
        None if has_strangers => Err(LoginError::Claim("azp")),
        _ => Ok(()),
    }
}

/// Returns `iat`. It must be at most `max_age` seconds ago and not in the future.
pub fn issued_within(claims: &Map<String, Value>, max_age: u64, now: u64) -> Result<u64, LoginError> {
    let issued = claims.get("iat").and_then(whole_seconds).ok_or(LoginError::Claim("iat"))?;
    let is_recent =
        issued <= now.saturating_add(CLOCK_LEEWAY_SECS) && now <= issued.saturating_add(max_age + CLOCK_LEEWAY_SECS);
    if is_recent { Ok(issued) } else { Err(LoginError::Claim("iat")) }
}

/// A claim that is absent or a non-empty string.
pub fn optional_text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, LoginError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(LoginError::Claim(name)),
    }
}

/// The left half of the hash of the algorithm (OpenID Connect Core 1.0 section 3.1.3.6).
fn half_hash(algorithm: Algorithm, text: &str) -> String {
    let hash = match algorithm {
        Algorithm::ES384 | Algorithm::RS384 | Algorithm::PS384 => Sha384::digest(text).to_vec(),
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => Sha512::digest(text).to_vec(),
        _ => Sha256::digest(text).to_vec(),
    };
    URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2])
}
