//! The client's side: signs requests the way [`super::Whitelist::verify`] asks for.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, FieldType, InnerList, Item, ListEntry, StringRef, key_ref};

use super::digest::{CONTENT_DIGEST, content_digest};
use super::signature::{ALGORITHM, BODY_COMPONENTS, COMPONENTS, PUBLIC_KEY, SIGNATURE, SIGNATURE_INPUT, TAG};
use super::signature_base::{RequestHead, signature_base};
use crate::auth::keys::{Fingerprint, KeyError};

/// Signs requests with one key.
pub struct Signer {
    key: SigningKey,
    keyid: String,
}

/// What a request is sent to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub method: &'a str,
    /// Host, with the port where it is not the default one.
    pub authority: &'a str,
    /// Percent-encoded as it will be sent.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
}

/// This part of a request cannot be put into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignError(pub &'static str);

impl Signer {
    pub fn new(key: SigningKey) -> Self {
        let keyid = Fingerprint::of(&key.verifying_key()).to_string();
        Self { key, keyid }
    }

    /// `SHA256:…`, as the signatures name the key.
    pub fn keyid(&self) -> &str {
        &self.keyid
    }

    /// The headers to add to a request, `Content-Type` among them where there is a body (its type and its bytes).
    ///
    /// `now` is seconds since 1970; the nonce must be fresh for each request, see [`fresh_nonce`].
    pub fn sign(
        &self,
        target: &Target<'_>,
        body: Option<(&str, &[u8])>,
        now: u64,
        nonce: &str,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, SignError> {
        let Target { method, authority, path, query } = *target;
        let mut headers = HeaderMap::new();
        headers.insert(PUBLIC_KEY, header("the key", STANDARD.encode(self.key.verifying_key()))?);
        if let Some((content_type, bytes)) = body {
            headers.insert(CONTENT_DIGEST, header("the digest", content_digest(bytes))?);
            headers.insert(CONTENT_TYPE, header("the content type", content_type.to_owned())?);
        }
        let input = self.input(body.is_some(), now, nonce)?;
        let head = RequestHead { method, authority, path, query, headers: &headers };
        let base = signature_base(&head, &input).map_err(|_| SignError("the content type"))?;
        let signature = self.key.sign(base.as_bytes()).to_bytes();

        headers.insert(SIGNATURE_INPUT, labelled(ListEntry::InnerList(input))?);
        headers.insert(SIGNATURE, labelled(signature.as_slice().into())?);
        Ok(headers.into_iter().filter_map(|(name, value)| name.map(|name| (name, value))).collect())
    }

    fn input(&self, has_body: bool, now: u64, nonce: &str) -> Result<InnerList, SignError> {
        let body: &[&StringRef] = if has_body { &BODY_COMPONENTS } else { &[] };
        let items = COMPONENTS.iter().chain(body).map(|name| Item::new(*name)).collect();
        let created = sfv::Integer::try_from(now).map_err(|_| SignError("the time"))?;
        let params = [
            (key_ref("created"), BareItem::Integer(created)),
            (key_ref("nonce"), StringRef::from_str(nonce).map_err(|_| SignError("the nonce"))?.into()),
            (key_ref("keyid"), StringRef::from_str(&self.keyid).map_err(|_| SignError("the key"))?.into()),
            (key_ref("alg"), ALGORITHM.into()),
            (key_ref("tag"), TAG.into()),
        ];
        let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(InnerList { items, params })
    }
}

/// 16 random bytes as base64 for URLs.
pub fn fresh_nonce() -> Result<String, KeyError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A dictionary of one member, under our label.
fn labelled(member: ListEntry) -> Result<HeaderValue, SignError> {
    let dictionary = Dictionary::from_iter([(key_ref("lastmile").to_owned(), member)]);
    header("the signature", dictionary.serialize().unwrap_or_default())
}

fn header(what: &'static str, value: String) -> Result<HeaderValue, SignError> {
    HeaderValue::try_from(value).map_err(|_| SignError(what))
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be sent in a header", self.0)
    }
}

impl std::error::Error for SignError {}
