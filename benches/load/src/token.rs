//! Issues ES256 tokens (RFC 7519, 7515) for subscribers, and the key set that verifies them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};

pub const ISSUER: &str = "https://issuer.bench";
pub const AUDIENCE: &str = "lastmile";

/// The benchmark's token issuer. Its key is fixed and not secret.
pub struct Issuer(SigningKey);

impl Default for Issuer {
    fn default() -> Issuer {
        Issuer(SigningKey::from_slice(&[9; 32]).expect("a scalar below the order of P-256"))
    }
}

impl Issuer {
    /// The key set document (RFC 7517).
    pub fn jwks(&self) -> String {
        let point = self.0.verifying_key().to_encoded_point(false);
        let [x, y] = [point.x(), point.y()].map(|c| URL_SAFE_NO_PAD.encode(c.expect("an affine point")));
        format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"bench","x":"{x}","y":"{y}"}}]}}"#
        )
    }

    /// A token of subscriber `number`, valid for an hour.
    pub fn token(&self, number: usize) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT","kid":"bench"}"#);
        let claims =
            format!(r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"s{number}","iat":{now},"exp":{}}}"#, now + 3600);
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature: Signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}
