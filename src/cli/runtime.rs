//! The async runtime of a command.

use super::failure::Failure;

/// Starts a runtime with one thread per core.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))
}
