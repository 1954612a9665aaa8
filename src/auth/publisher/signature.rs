//! Strict parsing of `Signature-Input` and `Signature` (RFC 9421 section 4).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, FieldType, InnerList, Key, ListEntry, Parser, StringRef, string_ref};

use super::digest::CONTENT_DIGEST;
use crate::protocol::{ErrorCode, Refusal};

/// Largest difference between `created` and the gateway's clock, in both directions.
pub const MAX_SKEW_SECS: u64 = 60;

/// 16 bytes are 22 characters of base64, and more in other common encodings.
const MIN_NONCE_CHARS: usize = 22;

pub(super) const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("signature");
pub(super) const PUBLIC_KEY: HeaderName = HeaderName::from_static("lastmile-public-key");

/// The headers that a signature needs or may cover, for a record of the request.
pub const RECORDED_HEADERS: [HeaderName; 5] =
    [SIGNATURE_INPUT, SIGNATURE, PUBLIC_KEY, CONTENT_DIGEST, http::header::CONTENT_TYPE];

pub(super) const ALGORITHM: &StringRef = string_ref("ed25519");
pub(super) const TAG: &StringRef = string_ref("lastmile");

/// Components that every request signs, in this order. [`BODY_COMPONENTS`] follow if it has a body.
pub(super) const COMPONENTS: [&StringRef; 4] =
    [string_ref("@method"), string_ref("@authority"), string_ref("@path"), string_ref("@query")];
pub(super) const BODY_COMPONENTS: [&StringRef; 2] = [string_ref("content-digest"), string_ref("content-type")];

/// The only signature of a request, not yet verified.
#[derive(Debug)]
pub(super) struct RequestSignature {
    /// The covered components and parameters, as signed.
    pub input: InnerList,
    pub parameters: Parameters,
    pub signature: ed25519_dalek::Signature,
}

/// The parameters of RFC 9421 section 2.3; all but `expires` are required.
#[derive(Debug)]
pub(super) struct Parameters {
    /// Seconds since 1970, like `expires`. May be negative.
    pub created: i64,
    pub expires: Option<i64>,
    pub nonce: String,
    pub keyid: String,
}

impl RequestSignature {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        if !headers.contains_key(SIGNATURE_INPUT) || !headers.contains_key(SIGNATURE) {
            return Err(Refusal::new(
                ErrorCode::SignatureMissing,
                "sign the request with a whitelisted ed25519 key (RFC 9421): Signature-Input and Signature are needed",
            ));
        }
        let (input_label, input) = only_member(headers, SIGNATURE_INPUT)?;
        let (label, signature) = only_member(headers, SIGNATURE)?;
        if input_label != label {
            return Err(invalid("Signature and Signature-Input must have the same label"));
        }
        let ListEntry::InnerList(input) = input else {
            return Err(invalid("Signature-Input must be a list of components in parentheses"));
        };
        let signature = match signature {
            ListEntry::Item(item) if item.params.is_empty() => {
                item.bare_item.as_byte_sequence().and_then(|bytes| ed25519_dalek::Signature::from_slice(bytes).ok())
            }
            _ => None,
        };
        let signature = signature.ok_or_else(|| invalid("Signature must be 64 bytes of base64 between colons"))?;
        Ok(Self { parameters: Parameters::of(&input)?, input, signature })
    }

    pub(super) fn covers_body(&self) -> bool {
        self.input.items.iter().any(|item| item.bare_item.as_string() == Some(BODY_COMPONENTS[0]))
    }

    /// Refuses missing, additional or reordered components, and parameters of components.
    pub(super) fn check_components(&self) -> Result<(), Refusal> {
        let body: &[&StringRef] = if self.covers_body() { &BODY_COMPONENTS } else { &[] };
        let expected = COMPONENTS.iter().chain(body);
        let as_expected = self.input.items.len() == COMPONENTS.len() + body.len()
            && self
                .input
                .items
                .iter()
                .zip(expected)
                .all(|(item, expected)| item.params.is_empty() && item.bare_item.as_string() == Some(*expected));
        if as_expected {
            return Ok(());
        }
        Err(invalid(
            "the signed components must be exactly (\"@method\" \"@authority\" \"@path\" \"@query\"), with a body followed \
             by \"content-digest\" \"content-type\", in this order and without parameters",
        ))
    }
}

impl Parameters {
    fn of(input: &InnerList) -> Result<Self, Refusal> {
        let known = ["created", "expires", "nonce", "keyid", "alg", "tag"];
        if input.params.keys().any(|key| !known.contains(&key.as_str())) {
            return Err(invalid("Signature-Input may have created, expires, nonce, keyid, alg and tag only"));
        }
        let value = |name: &str| input.params.get(name);
        let text = |name: &str| value(name).and_then(BareItem::as_string);
        let time = |name: &str| value(name).and_then(BareItem::as_integer).map(i64::from);

        let created =
            time("created").ok_or_else(|| invalid("Signature-Input needs `created`, in seconds since 1970"))?;
        let expires = time("expires");
        if expires.is_none() && value("expires").is_some() {
            return Err(invalid("`expires` must be an integer, in seconds since 1970"));
        }
        let nonce = text("nonce").filter(|nonce| nonce.as_str().len() >= MIN_NONCE_CHARS).ok_or_else(|| {
            invalid("Signature-Input needs a `nonce` of at least 16 random bytes, as a base64 string")
        })?;
        let keyid = text("keyid").ok_or_else(|| {
            invalid("Signature-Input needs `keyid`, the fingerprint that `ssh-keygen -lf` prints (`SHA256:…`)")
        })?;
        // The key on the whitelist determines the algorithm, never the request (section 7.3.6).
        if text("alg") != Some(ALGORITHM) {
            return Err(invalid("Signature-Input needs alg=\"ed25519\""));
        }
        if text("tag") != Some(TAG) {
            return Err(invalid("Signature-Input needs tag=\"lastmile\""));
        }
        Ok(Self { created, expires, nonce: nonce.as_str().to_owned(), keyid: keyid.as_str().to_owned() })
    }

    /// Refuses a signature not created within [`MAX_SKEW_SECS`] of now, or expired. Returns `created`.
    pub(super) fn check_fresh(&self, now: u64) -> Result<u64, Refusal> {
        let created = u64::try_from(self.created).ok().filter(|created| created.abs_diff(now) <= MAX_SKEW_SECS);
        let expired = self.expires.is_some_and(|expires| u64::try_from(expires).map_or(true, |at| at <= now));
        match created {
            Some(_) if expired => {
                Err(Refusal::new(ErrorCode::SignatureStale, "`expires` has passed; sign the request again"))
            }
            Some(created) => Ok(created),
            None => Err(Refusal::new(
                ErrorCode::SignatureStale,
                format!(
                    "`created` must be within 60 seconds of the gateway's clock, which shows {now}; check the clock and \
                     sign the request again"
                ),
            )),
        }
    }
}

/// The only member of a header. The header must be sent once and contain one signature.
///
/// A second spelling of the same thing (labels or parameters given twice, of which parsers take the last) is where
/// two readers of one request could differ. The canonical form (RFC 9651 section 4.1) has none.
fn only_member(headers: &HeaderMap, name: HeaderName) -> Result<(Key, ListEntry), Refusal> {
    let mut lines = headers.get_all(&name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(invalid("Signature and Signature-Input must each be sent once"));
    };
    let mut members = Parser::new(line.as_bytes())
        .parse::<Dictionary>()
        .map_err(|_| invalid("Signature and Signature-Input must be structured fields (RFC 9651 dictionaries)"))?;
    let canonical = members.serialize().unwrap_or_default();
    match (members.pop(), members.is_empty()) {
        (Some(_), false) => Err(invalid("the request must have exactly one signature")),
        (Some(_), true) if canonical.as_bytes() != line.as_bytes().trim_ascii() => Err(invalid(
            "Signature and Signature-Input must have the canonical form of RFC 9651 section 4.1, without duplicates",
        )),
        (Some(member), true) => Ok(member),
        (None, _) => Err(invalid("Signature and Signature-Input must not be empty")),
    }
}

pub(super) fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(ErrorCode::SignatureInvalid, detail)
}
