//! Authentication and authorization: signatures, tokens, login sessions, revocations, client addresses.

pub mod client_addr;
pub mod fetch;
pub mod keys;
pub mod login;
pub mod policy;
pub mod publisher;
pub mod revocation;
pub mod seal;
pub mod token;

pub use client_addr::{ClientAddr, client_address, is_trusted};
pub use policy::Policy;
pub use publisher::{PublisherConfig, PublisherKey};
pub use revocation::{Revocation, RevocationError, Revocations, Revoked};
pub use token::{IssuerConfig, Issuers, TokenError};
