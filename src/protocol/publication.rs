//! One publication: encoded once, its frames shared by all subscribers.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;

use super::json::{Text, push_json_string};
use super::payload::{DataKind, Payload};
use super::{ChannelName, compat, websocket};

/// Position of a publication in its channel. Offsets rise by one within an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// A new epoch means that the history before it is lost.
    pub epoch: Arc<str>,
    pub offset: u64,
}

impl Position {
    /// `EPOCH-OFFSET`. Unique over channels and restarts, because epochs are.
    pub fn message_id(&self) -> String {
        format!("{}-{}", self.epoch, self.offset)
    }

    /// Parses a [`Position::message_id`].
    pub fn of_message(id: &str) -> Option<Self> {
        let (epoch, offset) = id.rsplit_once('-')?;
        Some(Self { epoch: epoch.into(), offset: offset.parse().ok()? })
    }
}

/// An accepted publication of a channel.
pub struct Publication {
    pub offset: u64,
    /// The `message` frame of our own protocol.
    frame: Bytes,
    /// Range of the data within the frame, in bytes.
    data: Range<usize>,
    kind: DataKind,
    channel: ChannelName,
    /// Whether a compressed frame may be made. Never for secrets: compressed sizes leak them (CRIME, BREACH).
    may_compress: bool,
    /// Frames of the other forms, each made by its first subscriber. The index is `form - 1`.
    other_frames: [OnceLock<Bytes>; Form::COUNT - 1],
}

/// A publication as backlogs store it: the frame with the range and kind of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPublication {
    frame: Bytes,
    data: Range<u32>,
    kind: DataKind,
}

impl StoredPublication {
    /// Bytes before the frame: the kind, and the range of the data.
    const HEAD_BYTES: usize = 9;

    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Name of the publisher. `None` if the frame cannot be parsed.
    pub fn publisher(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Message {
            publisher: String,
        }
        // RFC 6455 section 5.2: the length field decides the size of the header.
        let header = match self.frame.get(1)? & 0x7f {
            0..126 => 2,
            126 => 4,
            _ => 10,
        };
        serde_json::from_slice::<Message>(self.frame.get(header..)?).ok().map(|message| message.publisher)
    }

    /// Size in bytes that [`StoredPublication::write`] fills.
    pub fn stored_len(&self) -> usize {
        Self::HEAD_BYTES + self.frame.len()
    }

    /// Encodes into `stored`, which has exactly [`StoredPublication::stored_len`] bytes.
    pub fn write(&self, stored: &mut [u8]) {
        let kind = match self.kind {
            DataKind::Json => 0,
            DataKind::Text => 1,
            DataKind::Base64 => 2,
        };
        let (head, frame) = stored.split_at_mut(Self::HEAD_BYTES);
        head[0] = kind;
        head[1..5].copy_from_slice(&self.data.start.to_le_bytes());
        head[5..].copy_from_slice(&self.data.end.to_le_bytes());
        frame.copy_from_slice(&self.frame);
    }

    /// Decodes the output of [`StoredPublication::write`]; `None` for anything else.
    pub fn read(stored: &[u8]) -> Option<Self> {
        let (head, frame) = stored.split_at_checked(Self::HEAD_BYTES)?;
        let kind = match head[0] {
            0 => DataKind::Json,
            1 => DataKind::Text,
            2 => DataKind::Base64,
            _ => return None,
        };
        let data = u32::from_le_bytes(head[1..5].try_into().ok()?)..u32::from_le_bytes(head[5..].try_into().ok()?);
        std::str::from_utf8(frame.get(data.start as usize..data.end as usize)?).ok()?;
        Some(Self { frame: Bytes::copy_from_slice(frame), data, kind })
    }
}

/// Wire format of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Native,
    /// `Native` over a connection that negotiated permessage-deflate.
    Deflated,
    Tslm,
    Flock,
}

impl Form {
    /// Number of forms.
    pub const COUNT: usize = Self::Flock as usize + 1;

    /// Whether the subscriber uses the native protocol.
    pub fn is_native(self) -> bool {
        matches!(self, Self::Native | Self::Deflated)
    }
}

impl Publication {
    /// `time` is RFC 3339 with milliseconds.
    pub fn new(
        channel: &ChannelName,
        position: &Position,
        time: jiff::Timestamp,
        publisher: &str,
        payload: Payload<'_>,
    ) -> Self {
        let Position { epoch, offset } = position;
        let mut json = String::with_capacity(200 + channel.as_str().len() + publisher.len() + payload.len() * 4 / 3);
        json.push_str(r#"{"type":"message","channel":"#);
        push_json_string(&mut json, channel.as_str());
        // Epochs and times contain no character that JSON escapes.
        let _ = write!(
            json,
            r#","message_id":"{epoch}-{offset}","epoch":"{epoch}","offset":{offset},"time":"{time:.3}","publisher":"#
        );
        push_json_string(&mut json, publisher);
        json.push_str(r#","data":"#);
        let start = json.len();
        let kind = match payload {
            Payload::Json(text) => {
                json.push_str(text);
                DataKind::Json
            }
            Payload::Text(text) => {
                push_json_string(&mut json, text);
                DataKind::Text
            }
            Payload::Binary(bytes) => {
                use base64::Engine as _;
                json.push('"');
                base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut json);
                json.push('"');
                DataKind::Base64
            }
        };
        let end = json.len();
        json.push_str(if kind == DataKind::Base64 { r#","encoding":"base64"}"# } else { "}" });
        let frame = websocket::text_frame(json.as_bytes());
        let header = (frame.len() - json.len()) as u32;
        Self::from_stored(
            channel,
            *offset,
            &StoredPublication { frame, data: start as u32 + header..end as u32 + header, kind },
        )
    }

    /// A publication read from a backlog.
    pub fn from_stored(channel: &ChannelName, offset: u64, stored: &StoredPublication) -> Self {
        let StoredPublication { frame, data, kind } = stored;
        Self {
            offset,
            frame: frame.clone(),
            data: data.start as usize..data.end as usize,
            kind: *kind,
            channel: channel.clone(),
            may_compress: false,
            other_frames: Default::default(),
        }
    }

    /// Allows or forbids the compressed frame. Publications of a backlog have none: each is decoded for one reader,
    /// so every reader would compress it again.
    pub fn compressed(self, may_compress: bool) -> Self {
        Self { may_compress, ..self }
    }

    /// The stored part. Shares the native frame alone, so a backlog does not retain frames of other forms.
    pub fn stored(&self) -> StoredPublication {
        StoredPublication {
            frame: self.frame.clone(),
            data: self.data.start as u32..self.data.end as u32,
            kind: self.kind,
        }
    }

    /// The frame for subscribers of `form`.
    pub fn frame(&self, form: Form) -> &Bytes {
        if form == Form::Native || (form == Form::Deflated && !self.may_compress) {
            return &self.frame;
        }
        self.other_frames[form as usize - 1].get_or_init(|| match form {
            Form::Native => self.frame.clone(),
            Form::Deflated => {
                websocket::deflated_text_frame(websocket::payload(&self.frame)).unwrap_or_else(|| self.frame.clone())
            }
            Form::Tslm => compat::tslm::message_frame(&self.channel, self.kind, self.data()),
            Form::Flock => compat::flock::event_frame(&self.channel, self.data()),
        })
    }

    /// The data as JSON text.
    pub fn data(&self) -> &str {
        std::str::from_utf8(&self.frame[self.data.clone()]).expect("frames hold UTF-8")
    }
}

/// The members of a frame to a subscriber without its data.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow, default)]
    pub channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub epoch: Option<Text<'a>>,
    #[serde(default)]
    pub offset: Option<u64>,
}

impl Head<'_> {
    /// Calls `with` on the head of a JSON text that the gateway wrote. Does not parse the data of a `message`.
    pub fn read<R>(text: &[u8], with: impl FnOnce(Head<'_>) -> R) -> Option<R> {
        // Strings before it have their quotes escaped, so the first match is the member itself.
        const DATA: &[u8] = br#","data":"#;
        match text.windows(DATA.len()).position(|part| part == DATA) {
            Some(end) => serde_json::from_slice(&[&text[..end], b"}"].concat()).ok().map(with),
            None => serde_json::from_slice(text).ok().map(with),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(payload: Payload<'_>) -> Publication {
        let position = Position { epoch: "k3".into(), offset: 42 };
        let time = "2026-11-21T09:00:00.1234Z".parse().unwrap();
        Publication::new(&ChannelName::parse("prices.\"eth\"").unwrap(), &position, time, "market-data", payload)
    }

    fn check(payload: Payload<'_>, data: &str, rest: &str) {
        let publication = publication(payload);
        let frame = publication.frame(Form::Native);
        let text = std::str::from_utf8(&frame[frame.len() - usize::from(frame[1])..]);
        let head = r#"{"type":"message","channel":"prices.\"eth\"","message_id":"k3-42","epoch":"k3","offset":42,"time":"2026-11-21T09:00:00.123Z","publisher":"market-data","data":"#;
        if frame[1] < 126 {
            assert_eq!(text.unwrap(), format!("{head}{data}{rest}"));
        } else {
            assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), format!("{head}{data}{rest}"));
        }
        assert_eq!(publication.data(), data);
    }

    #[test]
    fn json_keeps_its_bytes() {
        let odd = "{ \"usd\":3001.50, \"a\":1e3 ,\n\"b\":12345678901234567890123}";
        check(Payload::Json(crate::protocol::json::check_json(odd.as_bytes()).unwrap()), odd, "}");
    }

    #[test]
    fn binary_data_is_base64() {
        check(Payload::Text("a\"b\n"), r#""a\"b\n""#, "}");
        check(Payload::Binary(&[0xff, 0xfe]), r#""//4=""#, r#","encoding":"base64"}"#);
    }

    #[test]
    fn one_compressed_frame_for_all() {
        let text = "tick ".repeat(100);
        let made = publication(Payload::Text(&text)).compressed(true);
        let (plain, deflated) = (made.frame(Form::Native), made.frame(Form::Deflated));
        assert!(deflated.len() < plain.len() && deflated[0] == 0xc1);
        assert_eq!(made.frame(Form::Deflated).as_ptr(), deflated.as_ptr(), "shared by all");
        let secret = publication(Payload::Text(&text)).compressed(false);
        assert_eq!(secret.frame(Form::Deflated).as_ptr(), secret.frame(Form::Native).as_ptr());
        let mut noise = vec![0; 3000];
        getrandom::fill(&mut noise).unwrap();
        let noise = noise.iter().map(|byte| char::from(b'0' + byte % 64)).collect::<String>();
        let odd = publication(Payload::Text(&noise)).compressed(true);
        assert!(odd.frame(Form::Deflated).len() <= odd.frame(Form::Native).len());
    }
}
