//! Why a key file, public key or fingerprint is refused.

use std::fmt;

/// Why a key cannot be used. The text never contains any part of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Neither OpenSSH nor PEM.
    NotAKey,
    /// A key of another algorithm.
    NotEd25519,
    /// A private key in place of a public one.
    PrivateGiven,
    /// A public key in place of a private one.
    PublicGiven,
    /// The private key is encrypted with a passphrase.
    Encrypted,
    /// The text begins like a key and is damaged. Holds the defect.
    Malformed(&'static str),
    /// The public key has a small order or is not in canonical form, so signatures can be forged.
    Weak,
    NotAFingerprint,
    /// The operating system gave no random bytes.
    NoRandomness,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAKey => f.write_str("not a key: an OpenSSH line (`ssh-ed25519 AAAA…`) or PEM is expected"),
            Self::NotEd25519 => f.write_str("not an ed25519 key; create one with `ssh-keygen -t ed25519`"),
            Self::PrivateGiven => f.write_str(
                "private key in place of the public one; it must stay with the publisher, give the public key \
                 (`ssh-keygen -y -f FILE` or `openssl pkey -in FILE -pubout`)",
            ),
            Self::PublicGiven => f.write_str("public key in place of the private one, which signing needs"),
            Self::Encrypted => f.write_str(
                "private keys with a passphrase are not supported; remove it \
                 (`ssh-keygen -p -N '' -f FILE` or `openssl pkey -in FILE -out NEW`)",
            ),
            Self::Malformed(what) => write!(f, "damaged key: {what}"),
            Self::Weak => f.write_str("weak public key: signatures could be forged"),
            Self::NotAFingerprint => f.write_str(
                "not a fingerprint: `SHA256:` and 43 characters of base64 are expected, as `ssh-keygen -lf` prints it",
            ),
            Self::NoRandomness => f.write_str("the operating system returned no random bytes"),
        }
    }
}

impl std::error::Error for KeyError {}
