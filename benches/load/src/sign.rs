//! Request signing: HTTP Message Signatures (RFC 9421) with ed25519 and Content-Digest (RFC 9530). Written in Rust
//! because `post` signs tens of thousands of requests before it measures.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

pub struct Key {
    key: SigningKey,
    id: String,
}

impl Key {
    /// Reads a private key in PKCS#8 PEM, the format of `lastmile keygen`.
    pub fn read(path: &Path) -> io::Result<Key> {
        let pem = std::fs::read_to_string(path)?;
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(io::Error::other)?;
        Ok(Key::new(key))
    }

    /// Writes the fixed key of the benchmark's publisher. It is not secret.
    pub fn write(path: &Path) -> io::Result<Key> {
        let key = SigningKey::from_bytes(&[5; 32]);
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)?;
        std::fs::write(path, pem.as_bytes())?;
        Ok(Key::new(key))
    }

    fn new(key: SigningKey) -> Key {
        let id = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(openssh_blob(&key))));
        Key { key, id }
    }

    /// The public key in OpenSSH format.
    pub fn openssh(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(openssh_blob(&self.key)))
    }

    /// The header lines that sign a request, each with CRLF. `body` is a content type and the bytes.
    pub fn sign(&self, method: &str, authority: &str, path: &str, body: Option<(&str, &[u8])>) -> String {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut headers = String::new();
        let mut base =
            format!("\"@method\": {method}\n\"@authority\": {authority}\n\"@path\": {path}\n\"@query\": ?\n");
        let mut components = String::from(r#""@method" "@authority" "@path" "@query""#);
        if let Some((kind, body)) = body {
            let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
            headers += &format!("Content-Type: {kind}\r\nContent-Digest: {digest}\r\n");
            base += &format!("\"content-digest\": {digest}\n\"content-type\": {kind}\n");
            components += r#" "content-digest" "content-type""#;
        }
        let (nonce, id) = (nonce(), &self.id);
        let parameters =
            format!(r#"({components});created={created};nonce="{nonce}";keyid="{id}";alg="ed25519";tag="lastmile""#);
        base += &format!("\"@signature-params\": {parameters}");
        let signature = STANDARD.encode(self.key.sign(base.as_bytes()).to_bytes());
        headers + &format!("Signature-Input: sig1={parameters}\r\nSignature: sig1=:{signature}:\r\n")
    }
}

/// 32 unique bytes from process id, time and a counter. A benchmark needs nonces distinct, not secret.
fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    STANDARD.encode(Sha256::digest(format!("{} {time} {count}", std::process::id())))
}

fn openssh_blob(key: &SigningKey) -> Vec<u8> {
    let mut blob = Vec::new();
    for part in [&b"ssh-ed25519"[..], key.verifying_key().as_bytes()] {
        blob.extend_from_slice(&(part.len() as u32).to_be_bytes());
        blob.extend_from_slice(part);
    }
    blob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_covers_base() {
        let key = Key::new(SigningKey::from_bytes(&[3; 32]));
        let headers = key.sign("POST", "127.0.0.1:1", "/x", Some(("application/json", b"{}")));
        let input = headers.split("sig1=").nth(1).unwrap().split("\r\n").next().unwrap();
        let signature = headers.split("sig1=:").nth(1).unwrap().split(':').next().unwrap();
        let digest = STANDARD.encode(Sha256::digest(b"{}"));
        let base = format!(
            "\"@method\": POST\n\"@authority\": 127.0.0.1:1\n\"@path\": /x\n\"@query\": ?\n\"content-digest\": \
             sha-256=:{digest}:\n\"content-type\": application/json\n\"@signature-params\": {input}"
        );
        let bytes: [u8; 64] = STANDARD.decode(signature).unwrap().try_into().unwrap();
        key.key.verifying_key().verify_strict(base.as_bytes(), &bytes.into()).unwrap();
    }
}
