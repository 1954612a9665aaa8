//! A frame from the gateway. Its members depend on `type`; unknown members are ignored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::error::{Error, sanitized};
use crate::principal::Principal;
use crate::publication::{FrameText, Payload, Position, Publication, Published};

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Frame {
    pub r#type: String,
    pub id: Option<String>,
    pub channel: Option<String>,
    pub message_id: Option<String>,
    pub epoch: Option<String>,
    pub offset: Option<u64>,
    pub recovered: Option<bool>,
    pub time: Option<String>,
    pub publisher: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub encoding: Option<String>,
    /// An error code in `error`, a close code elsewhere.
    pub code: Option<Value>,
    pub message: Option<String>,
    pub temporary: Option<bool>,
    pub reason: Option<String>,
    pub ping_secs: Option<u64>,
    pub expires: Option<String>,
    pub reply: Option<String>,
    pub to: Option<String>,
    pub connection: Option<String>,
    /// A name in `welcome`, a [`Principal`] in other frames.
    pub principal: Option<Value>,
    pub event: Option<String>,
    pub connections: Option<u64>,
    pub missed: Option<u64>,
    /// The whole frame.
    #[serde(skip)]
    pub text: FrameText,
}

impl Frame {
    /// Parses a frame; `None` for a text that is none.
    pub(crate) fn parse(text: Utf8Bytes) -> Option<Self> {
        let frame: Self = serde_json::from_str(&text).ok()?;
        Some(Self { text: FrameText(text), ..frame })
    }

    pub(crate) fn position(&self) -> Option<Position> {
        Some(Position { epoch: self.epoch.clone()?, offset: self.offset? })
    }

    pub(crate) fn published(&self) -> Option<Published> {
        Some(Published {
            channel: self.channel.clone()?,
            message_id: self.message_id.clone()?,
            position: self.position()?,
        })
    }

    pub(crate) fn into_publication(self) -> Option<Publication> {
        let json = self.json();
        let payload = match self.encoding.as_deref() {
            Some("base64") => Payload::Bytes(STANDARD.decode(serde_json::from_str::<String>(json.get()).ok()?).ok()?),
            _ => Payload::Json(json),
        };
        Some(Publication {
            position: self.position()?,
            channel: self.channel?,
            message_id: self.message_id?,
            time: self.time.unwrap_or_default(),
            publisher: self.publisher.unwrap_or_default(),
            payload,
            frame: self.text,
        })
    }

    /// Converts an `error` frame.
    pub(crate) fn error(&self) -> Error {
        let code = self.code.as_ref().and_then(|code| code.as_str()).map_or("unexpected".to_owned(), sanitized);
        let message = self.message.as_deref().map_or(code.clone(), sanitized);
        Error { temporary: self.temporary == Some(true), ..Error::new(code, message) }
    }

    /// Returns `data` byte for byte. Serde reads `null` as `None`, so `None` becomes `null` again.
    pub(crate) fn json(&self) -> Box<RawValue> {
        self.data.clone().unwrap_or_else(|| RawValue::NULL.to_owned())
    }

    /// The subscriber's identity; `None` for an anonymous one.
    pub(crate) fn principal(&self) -> Option<Principal> {
        self.principal.clone().and_then(|principal| serde_json::from_value(principal).ok())
    }

    /// The close code, or 0 without one.
    pub(crate) fn close_code(&self) -> u16 {
        self.code.as_ref().and_then(Value::as_u64).and_then(|code| code.try_into().ok()).unwrap_or(0)
    }
}

impl std::fmt::Debug for Frame {
    /// Shows the type only: payloads do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({})", self.r#type)
    }
}
