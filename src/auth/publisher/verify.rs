//! Verification of signed requests: RFC 9421 with RFC 9530, in one strict profile.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use sha2::{Digest, Sha256};

use super::PublisherKey;
use super::digest::{CONTENT_DIGEST, ContentDigest};
use super::signature::{PUBLIC_KEY, RequestSignature, invalid};
use super::signature_base::{BaseError, RequestHead, signature_base};
use super::whitelist::{Publisher, Whitelist};
use crate::auth::keys::{Fingerprint, parse_fingerprint, public_key_from_bytes};
use crate::protocol::{ErrorCode, Refusal};

/// A request head with a valid signature. [`Verified::accept`] checks body and nonce.
#[derive(Debug)]
#[must_use = "body and nonce are not checked yet"]
pub struct Verified {
    publisher: Arc<Publisher>,
    created: u64,
    nonce: String,
    /// `None` if the signature does not cover a body.
    digest: Option<ContentDigest>,
}

impl Whitelist {
    /// Verifies the head of a request. Changes no state and consumes no nonce.
    ///
    /// `has_body`: bytes of a body follow. A request without a body may sign the digest of zero bytes.
    /// `now_unix_secs` is seconds since 1970.
    pub fn verify(&self, head: &RequestHead<'_>, has_body: bool, now_unix_secs: u64) -> Result<Verified, Refusal> {
        let signed = RequestSignature::of(head.headers)?;
        let created = signed.parameters.check_fresh(now_unix_secs);
        self.verify_signature(signed, head, has_body, created, now_unix_secs)
    }

    /// Verifies the record of a request that a gateway accepted earlier and checked for replay. Returns its publisher
    /// and its `created`.
    pub fn verify_recorded(&self, head: &RequestHead<'_>, body: &[u8]) -> Result<(Arc<Publisher>, u64), Refusal> {
        let signed = RequestSignature::of(head.headers)?;
        let created = u64::try_from(signed.parameters.created).map_err(|_| invalid("`created` is before 1970"))?;
        let verified = self.verify_signature(signed, head, !body.is_empty(), Ok(created), created)?;
        verified.check_body(body)?;
        Ok((verified.publisher, created))
    }

    /// Checks all but body and nonce. `created` is an error if the signature is not fresh.
    fn verify_signature(
        &self,
        signed: RequestSignature,
        head: &RequestHead<'_>,
        has_body: bool,
        created: Result<u64, Refusal>,
        now_unix_secs: u64,
    ) -> Result<Verified, Refusal> {
        let publisher = self.admit(&fingerprint_in(&signed.parameters.keyid)?, now_unix_secs)?;
        let created = created?;
        check_body_headers(head.headers, has_body, signed.covers_body())?;
        signed.check_components()?;

        let key = publisher.key_of(head.headers)?;
        let base = signature_base(head, &signed.input).map_err(refuse_base)?;
        key.verify_strict(base.as_bytes(), &signed.signature).map_err(|_| {
            invalid(
                "signature does not verify: another key signed, or a proxy changed the method, host, path, query or a \
                 signed header",
            )
        })?;
        let digest = if signed.covers_body() { ContentDigest::of(head.headers)? } else { None };
        Ok(Verified { publisher: publisher.clone(), created, nonce: signed.parameters.nonce, digest })
    }
}

fn fingerprint_in(keyid: &str) -> Result<Fingerprint, Refusal> {
    parse_fingerprint(keyid).map_err(|_| {
        Refusal::new(
            ErrorCode::KeyUnknown,
            "`keyid` must be the OpenSSH fingerprint of the key (`SHA256:…` as `ssh-keygen -lf` prints it)",
        )
    })
}

impl Publisher {
    fn key_of(&self, headers: &HeaderMap) -> Result<VerifyingKey, Refusal> {
        match &self.key {
            Some(PublisherKey::Known(key)) => Ok(*key),
            Some(PublisherKey::Hash(fingerprint)) => carried_key(headers, fingerprint),
            None => Err(ErrorCode::KeyUnknown.into()),
        }
    }
}

impl Verified {
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// A name for the nonce that is unique over all publishers, of letters, digits, `-` and `_`.
    pub fn nonce_name(&self, key: &Fingerprint) -> String {
        let digest = Sha256::new().chain_update(key.0).chain_update(self.nonce.as_bytes()).finalize();
        URL_SAFE_NO_PAD.encode(digest)
    }

    /// The last step: checks the body, looks the key up again, then consumes the nonce. The order matters: only the
    /// publisher can consume a nonce. Pass an empty body for a request without one.
    ///
    /// `current` is the whitelist in force after the body arrived, which may take minutes.
    pub fn accept(self, current: &Whitelist, body: &[u8], now_unix_secs: u64) -> Result<Arc<Publisher>, Refusal> {
        self.check_body(body)?;
        let publisher = current.renew(&self.publisher, now_unix_secs)?;
        publisher.use_nonce(self.created, &self.nonce, now_unix_secs)?;
        Ok(publisher)
    }

    fn check_body(&self, body: &[u8]) -> Result<(), Refusal> {
        match &self.digest {
            Some(digest) => digest.check(body),
            None if body.is_empty() => Ok(()),
            None => Err(digest_missing()),
        }
    }
}

fn check_body_headers(headers: &HeaderMap, has_body: bool, covers_body: bool) -> Result<(), Refusal> {
    if has_body && !headers.contains_key(CONTENT_DIGEST) {
        return Err(digest_missing());
    }
    if has_body && !covers_body {
        return Err(invalid("a request with a body must also sign \"content-digest\" \"content-type\""));
    }
    // Two lines and one line with a comma have the same base, so the meaning would be ambiguous.
    if covers_body && headers.get_all(CONTENT_TYPE).iter().count() > 1 {
        return Err(invalid("Content-Type must be sent once"));
    }
    Ok(())
}

/// The key in the request, for a whitelist entry with a fingerprint only.
fn carried_key(headers: &HeaderMap, fingerprint: &Fingerprint) -> Result<VerifyingKey, Refusal> {
    let mut lines = headers.get_all(PUBLIC_KEY).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(invalid(
            "only the fingerprint of this key is configured; send the key once, in Lastmile-Public-Key",
        ));
    };
    let bytes = STANDARD.decode(line.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| invalid("Lastmile-Public-Key must be base64 of the 32 bytes of the key"))?;
    let key =
        public_key_from_bytes(&bytes).map_err(|_| invalid("the key in Lastmile-Public-Key is weak or invalid"))?;
    if Fingerprint::of(&key) == *fingerprint {
        Ok(key)
    } else {
        Err(invalid("the key in Lastmile-Public-Key does not match `keyid`"))
    }
}

fn digest_missing() -> Refusal {
    Refusal::new(
        ErrorCode::DigestMissing,
        "a request with a body needs `Content-Digest: sha-256=:BASE64:` (RFC 9530) and must sign it",
    )
}

fn refuse_base(error: BaseError) -> Refusal {
    Refusal::new(ErrorCode::SignatureInvalid, error.to_string())
}
