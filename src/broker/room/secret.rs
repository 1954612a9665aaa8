//! Secrets of rooms: the gateway stores only their SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::{ErrorCode, Refusal};

/// The SHA-256 of a secret. [`Digest::NONE`] matches no secret.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// For a comparison that takes the same time where there is no secret.
    pub const NONE: Self = Self([0; 32]);

    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Compares in constant time.
    pub fn is_of(&self, secret: &str) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }
}

/// 256 random bits as text.
pub fn new_secret() -> Result<String, Refusal> {
    random::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// 128 random bits.
pub fn new_id() -> Result<RoomId, Refusal> {
    random().map(RoomId::from)
}

pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    Ok(bytes)
}
