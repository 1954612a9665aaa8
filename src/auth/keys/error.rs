//! Why a key file, public key or fingerprint is refused.

/// Why a key cannot be used. The text never contains any part of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither OpenSSH nor PEM.
    #[error("not a key: an OpenSSH line (`ssh-ed25519 AAAA…`) or PEM is expected")]
    NotAKey,
    #[error("not an ed25519 key; create one with `ssh-keygen -t ed25519`")]
    NotEd25519,
    #[error(
        "private key in place of the public one; it must stay with the publisher, give the public key \
         (`ssh-keygen -y -f FILE` or `openssl pkey -in FILE -pubout`)"
    )]
    PrivateGiven,
    #[error("public key in place of the private one, which signing needs")]
    PublicGiven,
    #[error(
        "private keys with a passphrase are not supported; remove it \
         (`ssh-keygen -p -N '' -f FILE` or `openssl pkey -in FILE -out NEW`)"
    )]
    Encrypted,
    /// The text begins like a key and is damaged. Holds the defect.
    #[error("damaged key: {0}")]
    Malformed(&'static str),
    /// The public key has a small order or is not in canonical form, so signatures can be forged.
    #[error("weak public key: signatures could be forged")]
    Weak,
    #[error("not a fingerprint: `SHA256:` and 43 characters of base64 are expected, as `ssh-keygen -lf` prints it")]
    NotAFingerprint,
    #[error("the operating system returned no random bytes")]
    NoRandomness,
}
