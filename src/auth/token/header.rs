//! The outer form of a token: a compact JWS and its header (RFC 7515). Decides nothing about keys and claims.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::error::{Part, TokenError};
use super::json;

/// Header parameters that change what is signed, how it is encoded, or where keys come from.
///
/// `crit` names extensions, and we know none; `b64` is one of them (RFC 7797); `zip` and `enc` belong to JWE;
/// `jku` and `x5u` ask for a fetch. `jwk`, `x5c` and the thumbprints are ignored: keys come from the configuration alone.
const FORBIDDEN: [&str; 6] = ["crit", "b64", "zip", "enc", "jku", "x5u"];

/// A token taken apart; nothing in it is trusted yet.
pub struct Unverified<'a> {
    pub header: Header,
    pub claims: Map<String, Value>,
    /// What the signature covers.
    pub signed: &'a str,
    /// Canonical base64url.
    pub signature: &'a str,
}

pub struct Header {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    pub typ: Option<String>,
}

impl<'a> Unverified<'a> {
    /// `token` is at most 8 KiB, which bounds all work here.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        // A fourth dot (a JWE has four) ends the splitting.
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
        if let Some(name) = FORBIDDEN.into_iter().find(|name| members.contains_key(*name)) {
            return Err(TokenError::HeaderForbidden(name));
        }
        let typ = string(&members, "typ")?;
        let content = string(&members, "cty")?;
        if content.is_some_and(|content| is_media_type(&content, "jwt")) {
            // A token inside a token.
            return Err(TokenError::HeaderForbidden("cty"));
        }
        let algorithm = string(&members, "alg")?.ok_or(TokenError::HeaderType("alg"))?;
        Ok(Self { algorithm: parse_algorithm(&algorithm)?, key_id: string(&members, "kid")?, typ })
    }

    /// Whether `typ` is what the issuer's tokens carry (RFC 8725 section 3.11, RFC 9068 section 2.1).
    ///
    /// Without a wish, `at+jwt`, `JWT` and no `typ` will do; `logout+jwt`, `dpop+jwt` and the like never do.
    pub fn has_typ(&self, wanted: Option<&str>) -> bool {
        match (wanted, self.typ.as_deref()) {
            (None, None) => true,
            (None, Some(typ)) => is_media_type(typ, "at+jwt") || is_media_type(typ, "jwt"),
            (Some(_), None) => false,
            (Some(wanted), Some(typ)) => is_media_type(typ, without_prefix(wanted)),
        }
    }
}

fn object(part: &str, which: Part) -> Result<Map<String, Value>, TokenError> {
    json::parse_object(&decode(part, which)?).ok_or(TokenError::NotAnObject(which))
}

/// The decoder takes no padding, no space and no bits left over, so that a token has one spelling.
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
fn is_media_type(value: &str, wanted: &str) -> bool {
    without_prefix(value).eq_ignore_ascii_case(wanted)
}

fn without_prefix(value: &str) -> &str {
    const PREFIX: &str = "application/";
    match value.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => value,
    }
}
