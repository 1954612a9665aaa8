//! The result of a method that may wait for a store or for other nodes.

use futures_util::future::BoxFuture;

use crate::protocol::Refusal;

pub type EngineFuture<'a, T> = BoxFuture<'a, Result<T, Refusal>>;
