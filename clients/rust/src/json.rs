//! JSON in and out, with the errors of this client.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Reads JSON of the other side.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| Error::new("invalid", format!("not what was expected: {error}")))
}

/// JSON as one line of text.
pub(crate) fn write<T: Serialize + ?Sized>(data: &T) -> Result<String, Error> {
    let json = serde_json::to_string(data);
    let json = json.map_err(|error| Error::new("invalid", format!("it cannot be written as JSON: {error}")))?;
    // Only a raw value brings line ends along, and JSON has them between its tokens alone.
    Ok(json.replace(['\n', '\r'], " "))
}
