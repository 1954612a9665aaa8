//! Serializes and parses JSON with this client's errors.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Parses remote JSON.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| Error::new("invalid", format!("unexpected JSON: {error}")))
}

/// Serializes to one line: a batch has one message per line.
pub(crate) fn write<T: Serialize + ?Sized>(data: &T) -> Result<String, Error> {
    let json = serde_json::to_string(data);
    let json = json.map_err(|error| Error::new("invalid", format!("cannot be serialized to JSON: {error}")))?;
    // Only a `RawValue` can contain line ends, and JSON allows them between tokens only.
    Ok(json.replace(['\n', '\r'], " "))
}
