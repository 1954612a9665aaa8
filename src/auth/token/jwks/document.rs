//! Parsing of JWK Sets (RFC 7517) in files, pushes and provider responses.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use serde_json::Value;

/// Parses a set of public keys; the error is text for the operator. Skips keys that cannot be parsed. Refuses a set
/// with a secret, which a compromised gateway would expose.
pub fn read_key_set(text: &[u8]) -> Result<JwkSet, String> {
    let mut set: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON ({})", shortened(&error)))?;
    let keys = set.get_mut("keys").and_then(Value::as_array_mut).ok_or("no list `keys`")?;
    if keys.is_empty() {
        return Err("no keys".to_owned());
    }
    if keys.iter().any(|key| key.get("d").is_some()) {
        return Err("contains a private key, which must stay with the issuer".to_owned());
    }
    if keys.iter().any(|key| key.get("kty").is_some_and(|kty| kty == "oct")) {
        return Err("contains a shared secret, with which tokens can be forged".to_owned());
    }
    let mut readable = Vec::with_capacity(keys.len());
    let mut unreadable = String::new();
    for key in keys.drain(..) {
        match serde_json::from_value::<Jwk>(key) {
            Ok(key) => readable.push(key),
            Err(error) => unreadable = shortened(&error),
        }
    }
    if readable.is_empty() { Err(unreadable) } else { Ok(JwkSet { keys: readable }) }
}

/// The error text, cut: it may quote a large part of the document.
pub fn shortened(error: &serde_json::Error) -> String {
    error.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID_KEY: &str =
        r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    #[test]
    fn skips_unreadable_keys_and_refuses_secrets() {
        let read = |keys: &str| read_key_set(format!("{{\"keys\":[{keys}]}}").as_bytes());
        assert_eq!(read(VALID_KEY).unwrap().keys.len(), 1);
        assert!(read(&format!(r#"7,{VALID_KEY},{{"kid":8}}"#)).unwrap().find("a").is_some());
        for (keys, why) in [
            ("", "no keys"),
            ("7", "invalid type"),
            (r#"{"kty":"oct","k":"AAAA"}"#, "shared secret"),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}"#, "private key"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(why), "{keys}: {error}");
        }
        for text in ["", "{}", "[]", r#"{"keys":{}}"#, "<html>"] {
            assert!(read_key_set(text.as_bytes()).is_err(), "{text}");
        }
    }
}
