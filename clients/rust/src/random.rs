//! Random values from the operating system.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Error;

/// Returns 16 random bytes in base64url, for nonces and idempotency keys.
pub(crate) fn token() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| Error::new("no_randomness", "the operating system returned no random bytes"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns a number from 0 to 1. Without randomness it is 1, which only lengthens waits.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}
