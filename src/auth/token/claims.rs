//! Claims of access tokens (RFC 7519 section 4.1, RFC 8725 sections 3.8 to 3.12), checked after the signature.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::TokenError;
use crate::broker::{Principal, claim};

/// Requirements for the claims of one issuer.
pub struct ClaimRules {
    pub issuer: Arc<str>,
    pub audiences: Vec<String>,
    /// Holds the audience of tokens without `aud`.
    pub audience_claim: String,
    pub groups_claim: String,
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
    ///
    /// Strict for the claims that the decision rests on. Any other claim that cannot be read is as good as absent.
    pub fn check(&self, mut claims: Map<String, Value>, now: u64) -> Result<Accepted, TokenError> {
        check_purpose(&claims)?;
        self.check_audience(&claims)?;
        let subject = required_string(&claims, "sub")?.into();
        let expires = time(&mut claims, "exp")?.ok_or(TokenError::ClaimMissing("exp"))?;
        let (issued, not_before) = (time(&mut claims, "iat")?, time(&mut claims, "nbf")?);
        let admitted = self.admission(expires, issued, not_before)?;
        if now >= admitted.end {
            return Err(TokenError::Expired);
        }
        if now < admitted.start {
            // Without `iat`, the start derives from the longest lifetime, so the lifetime is too long.
            let dated = claims.contains_key("iat") || claims.contains_key("nbf");
            return Err(if dated { TokenError::NotYetValid } else { TokenError::LifetimeTooLong });
        }
        // Revocations name them by their text.
        for name in ["jti", "sid"] {
            if let Some(Value::Number(number)) = claims.get(name) {
                let text = number.to_string();
                claims.insert(name.to_owned(), text.into());
            }
        }
        // Rules read such names as pointers.
        claims.retain(|name, _| !name.starts_with('/'));
        let groups = claim(&claims, &self.groups_claim).map(strings).unwrap_or_default();
        let scopes = scopes(&claims);
        let principal = Principal { issuer: self.issuer.clone(), subject, scopes, groups, expires, claims };
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
        let audience = claims.get("aud").or_else(|| claim(claims, &self.audience_claim));
        let is_ours = |audience: &String| self.audiences.contains(audience);
        let ours = match audience.ok_or(TokenError::ClaimMissing("aud"))? {
            Value::String(one) => is_ours(one),
            Value::Array(all) => {
                let all = all.iter().map(|one| match one {
                    Value::String(one) => Ok(is_ours(one)),
                    _ => Err(TokenError::ClaimInvalid("aud")),
                });
                // Each is read, so that the order has no effect.
                all.collect::<Result<Vec<_>, _>>()?.contains(&true)
            }
            _ => return Err(TokenError::ClaimInvalid("aud")),
        };
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

/// A NumericDate, which may have a fraction (RFC 7519 section 2), in whole seconds; replaces the claim by them. Another
/// type is refused and not treated as absent.
fn time(claims: &mut Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get_mut(name) else { return Ok(None) };
    let secs = whole_seconds(value).ok_or(TokenError::ClaimInvalid(name))?;
    *value = secs.into();
    Ok(Some(secs))
}

/// A NumericDate that is not negative, cut to whole seconds.
pub fn whole_seconds(value: &Value) -> Option<u64> {
    let of_float = |secs: f64| (secs.is_sign_positive() && secs < u64::MAX as f64).then_some(secs as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(of_float))
}

/// `scope` (RFC 8693 section 4.2), otherwise `scp`: a space-separated string or a list.
fn scopes(claims: &Map<String, Value>) -> Vec<String> {
    let read = |name: &str| match claims.get(name)? {
        Value::String(scopes) => Some(scopes.split(' ').filter(|scope| !scope.is_empty()).map(String::from).collect()),
        list @ Value::Array(_) => Some(strings(list)),
        _ => None,
    };
    read("scope").or_else(|| read("scp")).unwrap_or_default()
}

/// The strings of a list, or one string.
pub fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(items) => items.iter().filter_map(|item| item.as_str().map(String::from)).collect(),
        _ => Vec::new(),
    }
}
