//! Claims of access tokens (RFC 7519 section 4.1, RFC 8725 sections 3.8 to 3.12), checked after the signature.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::TokenError;
use crate::broker::Principal;

/// Requirements for the claims of one issuer.
pub struct ClaimRules {
    pub issuer: Arc<str>,
    pub audiences: Vec<String>,
    pub leeway_secs: u64,
    pub max_lifetime_secs: u64,
}

/// An accepted token.
pub struct Accepted {
    pub principal: Principal,
    /// The seconds since 1970 in which the token is accepted, including leeway.
    pub admitted: Range<u64>,
}

impl ClaimRules {
    /// `now` in seconds since 1970. `iss` already selected the issuer's keys.
    pub fn check(&self, claims: Map<String, Value>, now: u64) -> Result<Accepted, TokenError> {
        check_purpose(&claims)?;
        self.check_audience(&claims)?;
        let subject = required_string(&claims, "sub")?;
        // RFC 9068 section 2.2: channel rules may use them, so a wrong type is refused and not treated as absent.
        optional_string(&claims, "client_id")?;
        optional_string(&claims, "jti")?;
        let expires = time(&claims, "exp")?.ok_or(TokenError::ClaimMissing("exp"))?;
        let admitted = self.admission(expires, time(&claims, "iat")?, time(&claims, "nbf")?)?;
        if now >= admitted.end {
            return Err(TokenError::Expired);
        }
        if now < admitted.start {
            // Without `iat`, the start derives from the longest lifetime, so the lifetime is too long.
            let dated = claims.contains_key("iat") || claims.contains_key("nbf");
            return Err(if dated { TokenError::NotYetValid } else { TokenError::LifetimeTooLong });
        }
        let principal = Principal {
            issuer: self.issuer.clone(),
            subject: subject.into(),
            scopes: scopes(&claims)?,
            groups: strings(claims.get("groups"), "groups")?,
            expires,
            claims,
        };
        Ok(Accepted { principal, admitted })
    }

    /// When the token may open a session. Leeway extends admission only: open sessions end at `exp`.
    fn admission(&self, expires: u64, issued: Option<u64>, not_before: Option<u64>) -> Result<Range<u64>, TokenError> {
        let earliest = expires.saturating_sub(self.max_lifetime_secs);
        let start = match issued {
            Some(issued) if issued > expires => return Err(TokenError::ClaimInvalid("iat")),
            Some(issued) if issued < earliest => return Err(TokenError::LifetimeTooLong),
            Some(issued) => issued.saturating_sub(self.leeway_secs),
            None => earliest,
        };
        let not_before = not_before.unwrap_or(0).saturating_sub(self.leeway_secs);
        Ok(start.max(not_before)..expires.saturating_add(self.leeway_secs))
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let audience = claims.get("aud").ok_or(TokenError::ClaimMissing("aud"))?;
        let audience = match audience {
            Value::String(one) => vec![one.clone()],
            other => list(other, "aud")?,
        };
        let ours = audience.iter().any(|one| self.audiences.contains(one));
        if ours { Ok(()) } else { Err(TokenError::AudienceMismatch) }
    }
}

/// Claims that only an ID token has (OpenID Connect Core 1.0 sections 2, 3.1.3.6 and 3.3.2.11, FAPI 1.0 part 2).
const ID_TOKEN_CLAIMS: [&str; 4] = ["nonce", "at_hash", "c_hash", "s_hash"];

/// Values of Keycloak's claim `typ` in tokens that are no access tokens.
const OTHER_TYPES: [&str; 4] = ["ID", "Refresh", "Offline", "Logout"];

/// Refuses tokens that are made for another purpose: they travel where access tokens do not, for example in URLs.
fn check_purpose(claims: &Map<String, Value>) -> Result<(), TokenError> {
    if claims.contains_key("events") {
        return Err(TokenError::SecurityEvent);
    }
    let is_other_type = |typ: &str| OTHER_TYPES.iter().any(|other| other.eq_ignore_ascii_case(typ));
    if ID_TOKEN_CLAIMS.iter().any(|name| claims.contains_key(*name))
        // Cognito and Keycloak name the purpose in a claim, and leave out the claims above without a browser.
        || claims.get("token_use").is_some_and(|purpose| purpose != "access")
        || claims.get("typ").and_then(Value::as_str).is_some_and(is_other_type)
    {
        return Err(TokenError::NotAccessToken);
    }
    Ok(())
}

/// A required, non-empty string claim.
pub fn required_string<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, TokenError> {
    match claims.get(name) {
        None => Err(TokenError::ClaimMissing(name)),
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => Err(TokenError::ClaimInvalid(name)),
    }
}

/// A string claim that is absent or non-empty.
fn optional_string(claims: &Map<String, Value>, name: &'static str) -> Result<(), TokenError> {
    if claims.contains_key(name) { required_string(claims, name).map(drop) } else { Ok(()) }
}

/// A NumericDate in whole seconds. Another type is refused and not treated as absent.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    value.as_u64().map(Some).ok_or(TokenError::ClaimInvalid(name))
}

/// `scope` is a space-separated string (RFC 8693 section 4.2). Without it, `scp` is such a string or a list.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    match (claims.get("scope"), claims.get("scp")) {
        (Some(Value::String(scopes)), _) | (None, Some(Value::String(scopes))) => {
            Ok(scopes.split(' ').filter(|scope| !scope.is_empty()).map(String::from).collect())
        }
        (Some(_), _) => Err(TokenError::ClaimInvalid("scope")),
        (None, scp) => strings(scp, "scp"),
    }
}

/// A list of strings, or one string.
fn strings(value: Option<&Value>, name: &'static str) -> Result<Vec<String>, TokenError> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(other) => list(other, name),
    }
}

fn list(value: &Value, name: &'static str) -> Result<Vec<String>, TokenError> {
    let Value::Array(items) = value else { return Err(TokenError::ClaimInvalid(name)) };
    items.iter().map(|item| item.as_str().map(String::from).ok_or(TokenError::ClaimInvalid(name))).collect()
}
