//! Compact JWS form and header of a token (RFC 7515), without keys and claims.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::error::{Part, TokenError};
use super::json;

/// Header parameters that change the signed content, its encoding, or the source of keys.
///
/// `crit` names extensions, and none is supported; `b64` is one of them (RFC 7797); `zip` and `enc` belong to JWE;
/// `jku` and `x5u` are URLs of keys. `jwk`, `x5c` and the thumbprints are ignored: keys come from the configuration
/// only.
const FORBIDDEN_PARAMETERS: [&str; 6] = ["crit", "b64", "zip", "enc", "jku", "x5u"];

/// A parsed token whose signature is not verified.
pub struct Unverified<'a> {
    pub header: Header,
    pub claims: Map<String, Value>,
    /// The text that the signature covers.
    pub signed: &'a str,
    /// Canonical base64url.
    pub signature: &'a str,
}

#[derive(Debug)]
pub struct Header {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    pub typ: Option<String>,
}

impl<'a> Unverified<'a> {
    /// `max_bytes` bounds all work on unverified tokens.
    pub fn parse(token: &'a str, max_bytes: usize) -> Result<Self, TokenError> {
        if token.len() > max_bytes {
            return Err(TokenError::TooLong);
        }
        // The limit bounds the work on a text of many dots. A JWE has four dots.
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::NotThreeParts);
        };
        decode(signature, Part::Signature)?;
        Ok(Self {
            header: Header::from_members(object(header, Part::Header)?)?,
            claims: object(claims, Part::Claims)?,
            signed: &token[..header.len() + 1 + claims.len()],
            signature,
        })
    }
}

impl Header {
    fn from_members(members: Map<String, Value>) -> Result<Self, TokenError> {
        if let Some(name) = FORBIDDEN_PARAMETERS.into_iter().find(|name| members.contains_key(*name)) {
            return Err(TokenError::HeaderForbidden(name));
        }
        let typ = string(&members, "typ")?;
        let content = string(&members, "cty")?;
        if content.is_some_and(|content| is_media_type(&content, "jwt")) {
            // A nested token.
            return Err(TokenError::HeaderForbidden("cty"));
        }
        let algorithm = string(&members, "alg")?.ok_or(TokenError::HeaderType("alg"))?;
        Ok(Self { algorithm: parse_algorithm(&algorithm)?, key_id: string(&members, "kid")?, typ })
    }

    /// Whether `typ` is that of the issuer's tokens (RFC 8725 section 3.11, RFC 9068 section 2.1).
    ///
    /// If none is `required`, `at+jwt`, `JWT` and no `typ` are accepted; `logout+jwt`, `dpop+jwt` and others are not.
    pub fn has_typ(&self, required: Option<&str>) -> bool {
        match (required, self.typ.as_deref()) {
            (None, None) => true,
            (None, Some(typ)) => is_access_token_type(typ) || is_media_type(typ, "jwt"),
            (Some(_), None) => false,
            (Some(required), Some(typ)) => is_media_type(typ, without_prefix(required)),
        }
    }
}

/// Whether a `typ` marks access tokens, and nothing else (RFC 9068 section 2.1).
pub fn is_access_token_type(typ: &str) -> bool {
    is_media_type(typ, "at+jwt")
}

fn object(part: &str, which: Part) -> Result<Map<String, Value>, TokenError> {
    json::parse_object(&decode(part, which)?).ok_or(TokenError::NotAnObject(which))
}

/// Refuses padding, white space and trailing bits, so that a token has a single encoding.
fn decode(part: &str, which: Part) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::NotBase64url(which))
}

fn string(members: &Map<String, Value>, name: &'static str) -> Result<Option<String>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::HeaderType(name)),
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, TokenError> {
    if name.trim().eq_ignore_ascii_case("none") {
        return Err(TokenError::AlgorithmNone);
    }
    // The newer name of EdDSA with this curve (RFC 9864).
    if name == "Ed25519" {
        return Ok(Algorithm::EdDSA);
    }
    Algorithm::from_str(name).map_err(|_| TokenError::AlgorithmNotAllowed)
}

/// Media types compare without case, and `application/` may be left out (RFC 7515 section 4.1.9).
fn is_media_type(value: &str, expected: &str) -> bool {
    without_prefix(value).eq_ignore_ascii_case(expected)
}

fn without_prefix(value: &str) -> &str {
    const PREFIX: &str = "application/";
    match value.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => value,
    }
}
