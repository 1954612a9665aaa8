//! The data of a publication, before and inside its frame.

/// The data of a publication, as its publisher sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Checked JSON, delivered byte for byte.
    Json(&'a str),
    /// Delivered as a JSON string.
    Text(&'a str),
    /// Delivered as base64 in a JSON string, with `"encoding":"base64"`.
    Binary(&'a [u8]),
}

impl Payload<'_> {
    /// Size in bytes, as limits count it.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(text) | Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Encoding of a publication's data in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    Json,
    Text,
    Base64,
}
