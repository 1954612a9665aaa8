//! What a token says of itself before its signature is checked: only to choose by whose keys that is done.

use jsonwebtoken::Algorithm;

use super::claims::required_string;
use super::error::TokenError;
use super::header::Unverified;
use super::verify::MAX_TOKEN;

pub struct Unproven {
    /// `iss`, unproven.
    pub issuer: String,
    /// Proven once the signature is.
    pub algorithm: Algorithm,
}

impl Unproven {
    pub fn read(token: &str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let token = Unverified::parse(token)?;
        Ok(Self { issuer: required_string(&token.claims, "iss")?.to_owned(), algorithm: token.header.algorithm })
    }
}
