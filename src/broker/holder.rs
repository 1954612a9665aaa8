//! The person or client address that a waiting name counts for.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use super::Principal;

/// A digest with a random key: one word for each connection, and no client can choose the digest of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(u64);

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Holder {
    /// `address` is the client's address for limits; clients without one, on a Unix socket, are one holder.
    pub fn of_address(address: Option<IpAddr>) -> Self {
        Self(HASHER.hash_one(address))
    }

    pub fn of_person(principal: &Principal) -> Self {
        Self(HASHER.hash_one((&principal.issuer, &principal.subject)))
    }
}
