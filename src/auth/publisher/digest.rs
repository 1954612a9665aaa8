//! `Content-Digest` (RFC 9530 section 2) of a request.

use http::{HeaderMap, HeaderName};
use sfv::{Dictionary, ListEntry, Parser};
use sha2::{Digest, Sha256, Sha512};

use crate::protocol::{ErrorCode, Refusal};

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The supported digests of a request, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentDigest {
    sha256: Option<Vec<u8>>,
    sha512: Option<Vec<u8>>,
}

impl ContentDigest {
    /// Parses the header; `None` if it is absent. Ignores other algorithms, as RFC 9530 requires.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        if !headers.contains_key(CONTENT_DIGEST) {
            return Ok(None);
        }
        let lines: Vec<&[u8]> = headers.get_all(CONTENT_DIGEST).iter().map(|line| line.as_bytes()).collect();
        let dictionary = Parser::new(&lines.join(b", ".as_slice())).parse::<Dictionary>().map_err(|_| unsupported())?;
        let digest = Self { sha256: take(&dictionary, "sha-256")?, sha512: take(&dictionary, "sha-512")? };
        if digest.sha256.is_none() && digest.sha512.is_none() { Err(unsupported()) } else { Ok(Some(digest)) }
    }

    /// Refuses a body that differs from any digest.
    pub(super) fn check(&self, body: &[u8]) -> Result<(), Refusal> {
        let matches_sha256 = self.sha256.as_ref().is_none_or(|digest| Sha256::digest(body)[..] == digest[..]);
        let matches_sha512 = self.sha512.as_ref().is_none_or(|digest| Sha512::digest(body)[..] == digest[..]);
        if matches_sha256 && matches_sha512 {
            Ok(())
        } else {
            Err(Refusal::new(
                ErrorCode::DigestMismatch,
                "body does not match its Content-Digest; hash the bytes exactly as they are sent",
            ))
        }
    }
}

fn take(dictionary: &Dictionary, algorithm: &str) -> Result<Option<Vec<u8>>, Refusal> {
    match dictionary.get(algorithm) {
        None => Ok(None),
        Some(ListEntry::Item(item)) => {
            item.bare_item.as_byte_sequence().map(|bytes| Some(bytes.to_vec())).ok_or_else(unsupported)
        }
        Some(ListEntry::InnerList(_)) => Err(unsupported()),
    }
}

fn unsupported() -> Refusal {
    Refusal::new(
        ErrorCode::DigestMismatch,
        "Content-Digest must be `sha-256=:BASE64:` or `sha-512=:BASE64:` (RFC 9530)",
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The request of RFC 9421 appendix B.2, whose digests RFC 9530 appendix B lists as well.
    const BODY: &[u8] = b"{\"hello\": \"world\"}";
    const SHA256: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    const SHA512: &str =
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
    const OTHER_SHA256: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    fn check(lines: &[&str], body: &[u8]) -> Result<(), ErrorCode> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_DIGEST, HeaderValue::from_str(line).unwrap());
        }
        let digest = ContentDigest::of(&headers).map_err(|refusal| refusal.code)?;
        digest.unwrap().check(body).map_err(|refusal| refusal.code)
    }

    #[test]
    fn accepts_digests_of_the_rfc() {
        assert_eq!(check(&[SHA256], BODY), Ok(()));
        assert_eq!(check(&[SHA512], BODY), Ok(()));
        assert_eq!(check(&[&format!("{SHA256}, {SHA512}")], BODY), Ok(()));
        assert_eq!(check(&[SHA256, SHA512], BODY), Ok(()));
        assert_eq!(check(&[&format!("md5=:AAAA:, {SHA256}")], BODY), Ok(()));
        assert_eq!(check(&[OTHER_SHA256], b""), Ok(()));
    }

    #[test]
    fn every_digest_must_match() {
        assert_eq!(check(&[SHA256], b"{\"hello\": \"World\"}"), Err(ErrorCode::DigestMismatch));
        assert_eq!(check(&[&format!("{OTHER_SHA256}, {SHA512}")], BODY), Err(ErrorCode::DigestMismatch));
        assert_eq!(check(&[&format!("{OTHER_SHA256}, {SHA512}")], b""), Err(ErrorCode::DigestMismatch));
    }

    #[test]
    fn useless_digest_is_refused() {
        for line in ["", "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", "sha-256", "sha-256=X48E", "sha-256=:!:", "sha-256=::", "("]
        {
            assert_eq!(check(&[line], b""), Err(ErrorCode::DigestMismatch), "{line}");
        }
        assert_eq!(ContentDigest::of(&HeaderMap::new()), Ok(None));
    }
}
