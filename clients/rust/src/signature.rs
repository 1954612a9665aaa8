//! HTTP Message Signatures (RFC 9421) with the components that the gateway requires.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::key::Key;
use crate::random;

/// Returns a random nonce for [`Request::sign_at`].
pub fn fresh_nonce() -> Result<String, Error> {
    random::token()
}

/// The signed parts of a request, for programs with their own HTTP client.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Host as the client addresses it, with a port that is not the default one.
    pub authority: &'a str,
    /// Percent-encoded, as sent.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// Content type and bytes.
    pub body: Option<(&'a str, &'a [u8])>,
}

impl Request<'_> {
    /// Returns the signature headers, with a fresh nonce and the current time.
    pub fn sign(&self, key: &Key) -> Result<HeaderMap, Error> {
        // The gateway refuses the signature of a clock before 1970 and names the clock.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.sign_at(key, now, &fresh_nonce()?)
    }

    /// Signs with a given time, in seconds since 1970, and nonce.
    pub fn sign_at(&self, key: &Key, created: u64, nonce: &str) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|_| Error::new("invalid", format!("{name} cannot be sent in a header")))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok::<_, Error>(())
        };
        let mut names = r#""@method" "@authority" "@path" "@query""#.to_owned();
        let mut base = format!(
            "\"@method\": {}\n\"@authority\": {}\n\"@path\": {}\n\"@query\": ?{}\n",
            self.method,
            normalized(self.authority),
            if self.path.is_empty() { "/" } else { self.path },
            self.query.unwrap_or_default(),
        );
        if let Some((content_type, body)) = self.body {
            let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
            names.push_str(r#" "content-digest" "content-type""#);
            base.push_str(&format!("\"content-digest\": {digest}\n\"content-type\": {}\n", content_type.trim()));
            add("content-digest", &digest)?;
            add("content-type", content_type)?;
        }
        let keyid = key.fingerprint();
        let input =
            format!("({names});created={created};nonce=\"{nonce}\";keyid=\"{keyid}\";alg=\"ed25519\";tag=\"lastmile\"");
        base.push_str(&format!("\"@signature-params\": {input}"));
        add("lastmile-public-key", &key.public())?;
        add("signature-input", &format!("lastmile={input}"))?;
        add("signature", &format!("lastmile=:{}:", key.sign(&base)))?;
        Ok(headers)
    }
}

/// Lower case without the default port (RFC 9421 section 2.2.3). Both default ports are removed, because a proxy may
/// terminate TLS before the gateway.
fn normalized(authority: &str) -> String {
    let authority = authority.to_ascii_lowercase();
    let host = [":80", ":443", ":"].iter().find_map(|port| authority.strip_suffix(port));
    host.unwrap_or(&authority).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn matches_shared_vectors() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/signatures.json");
        let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let key = Key::from_text(vectors["private_key"].as_str().unwrap()).unwrap();
        assert_eq!(key.fingerprint(), vectors["keyid"]);
        let cases = vectors["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = |name: &str| case[name].as_str();
            let body = text("body_base64").map(|body| STANDARD.decode(body).unwrap());
            let request = Request {
                method: text("method").unwrap(),
                authority: text("authority").unwrap(),
                path: text("path").unwrap(),
                query: text("query"),
                body: text("content_type").map(|content_type| (content_type, body.as_deref().unwrap())),
            };
            let created = case["created"].as_u64().unwrap();
            let headers = request.sign_at(&key, created, text("nonce").unwrap()).unwrap();
            let expected = case["headers"].as_object().unwrap();
            assert_eq!(headers.len(), expected.len(), "{}", case["about"]);
            for (name, value) in expected {
                assert_eq!(headers[name.as_str()], value.as_str().unwrap(), "{}: {name}", case["about"]);
            }
        }
    }

    #[test]
    fn refuses_invalid_header_values() {
        let vectors =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/signatures.json"));
        let vectors: Value = serde_json::from_str(&vectors.unwrap()).unwrap();
        let key = Key::from_text(vectors["private_key"].as_str().unwrap()).unwrap();
        let body = Some(("text/plain\r\nx: y", b"".as_slice()));
        let request = Request { method: "POST", authority: "gw", path: "/", query: None, body };
        assert_eq!(request.sign(&key).unwrap_err().code, "invalid");
    }
}
