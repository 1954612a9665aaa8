//! One publication: encoded once, shared by everybody who gets it.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;

use super::frame::command::Text;
use super::{ChannelName, ErrorCode, Refusal, compat, websocket};

/// Deepest nesting of JSON that is carried.
pub const MAX_JSON_DEPTH: usize = 32;

/// What a publisher sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Checked JSON, carried byte for byte.
    Json(&'a str),
    /// Carried as a JSON string.
    Text(&'a str),
    /// Carried as base64 in a JSON string, with `"encoding":"base64"`.
    Binary(&'a [u8]),
}

impl Payload<'_> {
    /// Bytes as the limits count them.
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

/// Checks that `bytes` are one JSON value, not nested too deeply.
pub fn check_json(bytes: &[u8]) -> Result<&str, Refusal> {
    let malformed = |detail: String| Refusal::new(ErrorCode::Malformed, detail);
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("the JSON is not UTF-8".into()))?;
    check_depth(text, MAX_JSON_DEPTH)?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| malformed(format!("not JSON: {error}")))?;
    Ok(text.trim_matches([' ', '\t', '\r', '\n']))
}

/// Refuses nesting deeper than `max_depth`; `text` need not be valid JSON.
pub fn check_depth(text: &str, max_depth: usize) -> Result<(), Refusal> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth {
                    return Err(Refusal::new(
                        ErrorCode::Malformed,
                        format!("the JSON is nested deeper than {max_depth} levels"),
                    ));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Where a publication stands: offsets of one channel rise by one within an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Changes when history is lost.
    pub epoch: Arc<str>,
    pub offset: u64,
}

impl Position {
    /// Names the publication at this position: unique over channels and restarts, because epochs are.
    pub fn message_id(&self) -> String {
        format!("{}-{}", self.epoch, self.offset)
    }

    /// The position that a [`Position::message_id`] names.
    pub fn of_message(id: &str) -> Option<Self> {
        let (epoch, offset) = id.rsplit_once('-')?;
        Some(Self { epoch: epoch.into(), offset: offset.parse().ok()? })
    }
}

/// How the data of a publication is written in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    Json,
    Text,
    Base64,
}

/// One accepted item of a channel.
pub struct Publication {
    pub offset: u64,
    /// The `message` frame of our own protocol.
    frame: Bytes,
    /// Where in the frame the data stands.
    data: Range<usize>,
    kind: DataKind,
    channel: ChannelName,
    /// Whether a compressed frame may be made: not of what is secret, because sizes tell (CRIME, BREACH).
    may_compress: bool,
    deflated: OnceLock<Bytes>,
    tslm: OnceLock<Bytes>,
    flock: OnceLock<Bytes>,
}

/// A publication as a backlog keeps it: its frame, once, and what stands where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    frame: Bytes,
    data: Range<u32>,
    kind: DataKind,
}

impl Kept {
    /// Bytes of the description before the frame.
    const HEAD: usize = 9;

    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Who published it.
    pub fn publisher(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Message {
            publisher: String,
        }
        // RFC 6455 section 5.2: how long the header of a frame is.
        let header = match self.frame.get(1)? & 0x7f {
            0..126 => 2,
            126 => 4,
            _ => 10,
        };
        serde_json::from_slice::<Message>(self.frame.get(header..)?).ok().map(|message| message.publisher)
    }

    /// Bytes that [`Kept::write`] fills.
    pub fn stored_len(&self) -> usize {
        Self::HEAD + self.frame.len()
    }

    /// Writes it into exactly [`Kept::stored_len`] bytes.
    pub fn write(&self, stored: &mut [u8]) {
        let kind = match self.kind {
            DataKind::Json => 0,
            DataKind::Text => 1,
            DataKind::Base64 => 2,
        };
        let (head, frame) = stored.split_at_mut(Self::HEAD);
        head[0] = kind;
        head[1..5].copy_from_slice(&self.data.start.to_le_bytes());
        head[5..].copy_from_slice(&self.data.end.to_le_bytes());
        frame.copy_from_slice(&self.frame);
    }

    /// What [`Kept::write`] wrote; `None` if it is anything else.
    pub fn read(stored: &[u8]) -> Option<Self> {
        let (head, frame) = stored.split_at_checked(Self::HEAD)?;
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

/// In which words a subscriber is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Native,
    /// The same over a connection that takes compressed frames.
    Deflated,
    Tslm,
    Flock,
}

impl Form {
    /// How many forms there are.
    pub const COUNT: usize = Self::Flock as usize + 1;

    /// Whether our own protocol is spoken.
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
        // Epochs and times hold nothing that JSON escapes.
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
        Self::of_kept(channel, *offset, &Kept { frame, data: start as u32 + header..end as u32 + header, kind })
    }

    /// One that was kept.
    pub fn of_kept(channel: &ChannelName, offset: u64, kept: &Kept) -> Self {
        let Kept { frame, data, kind } = kept;
        Self {
            offset,
            frame: frame.clone(),
            data: data.start as usize..data.end as usize,
            kind: *kind,
            channel: channel.clone(),
            may_compress: false,
            deflated: OnceLock::new(),
            tslm: OnceLock::new(),
            flock: OnceLock::new(),
        }
    }

    /// The same, with or without a compressed frame for those who take one. One that was kept has none: it is made
    /// for one reader, and each would have it compressed anew.
    pub fn compressed(self, may_compress: bool) -> Self {
        Self { may_compress, ..self }
    }

    /// What has to be kept of it. It shares the frame and nothing else, so forms made later are not kept.
    pub fn kept(&self) -> Kept {
        Kept { frame: self.frame.clone(), data: self.data.start as u32..self.data.end as u32, kind: self.kind }
    }

    /// The frame for subscribers of `form`.
    pub fn frame(&self, form: Form) -> &Bytes {
        match form {
            Form::Native => &self.frame,
            Form::Deflated if !self.may_compress => &self.frame,
            Form::Deflated => self.deflated.get_or_init(|| {
                websocket::deflated_text_frame(websocket::payload(&self.frame)).unwrap_or_else(|| self.frame.clone())
            }),
            Form::Tslm => self.tslm.get_or_init(|| compat::tslm::message_frame(&self.channel, self.kind, self.data())),
            Form::Flock => self.flock.get_or_init(|| compat::flock::event_frame(&self.channel, self.data())),
        }
    }

    /// The data as JSON text.
    pub fn data(&self) -> &str {
        std::str::from_utf8(&self.frame[self.data.clone()]).expect("a frame is made of text")
    }
}

/// What a frame to a subscriber is about.
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
    /// Calls `with` on the head of a JSON text that the gateway wrote. The data of a `message` is not looked at.
    pub fn read<R>(text: &[u8], with: impl FnOnce(Head<'_>) -> R) -> Option<R> {
        // The quotes of every string before it are escaped, so the first one is the member itself.
        const DATA: &[u8] = br#","data":"#;
        match text.windows(DATA.len()).position(|part| part == DATA) {
            Some(end) => serde_json::from_slice(&[&text[..end], b"}"].concat()).ok().map(with),
            None => serde_json::from_slice(text).ok().map(with),
        }
    }
}

/// Appends `text` as a JSON string with its quotes.
pub fn push_json_string(json: &mut String, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
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
    fn json_is_carried_byte_for_byte() {
        let odd = "{ \"usd\":3001.50, \"a\":1e3 ,\n\"b\":12345678901234567890123}";
        check(Payload::Json(check_json(odd.as_bytes()).unwrap()), odd, "}");
    }

    #[test]
    fn text_is_a_string_and_anything_else_base64() {
        check(Payload::Text("a\"b\n"), r#""a\"b\n""#, "}");
        check(Payload::Binary(&[0xff, 0xfe]), r#""//4=""#, r#","encoding":"base64"}"#);
    }

    #[test]
    fn a_compressed_frame_is_made_once_and_only_where_it_may_be_and_pays() {
        let text = "tick ".repeat(100);
        let made = publication(Payload::Text(&text)).compressed(true);
        let (plain, deflated) = (made.frame(Form::Native), made.frame(Form::Deflated));
        assert!(deflated.len() < plain.len() && deflated[0] == 0xc1);
        assert_eq!(made.frame(Form::Deflated).as_ptr(), deflated.as_ptr(), "all share one");
        let secret = publication(Payload::Text(&text)).compressed(false);
        assert_eq!(secret.frame(Form::Deflated).as_ptr(), secret.frame(Form::Native).as_ptr());
        let mut noise = vec![0; 3000];
        getrandom::fill(&mut noise).unwrap();
        let noise = noise.iter().map(|byte| char::from(b'0' + byte % 64)).collect::<String>();
        let odd = publication(Payload::Text(&noise)).compressed(true);
        assert!(odd.frame(Form::Deflated).len() <= odd.frame(Form::Native).len());
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for bad in ["", "{", "{} {}", "nul", "\u{feff}1", "[1,]", "{\"a\":01}"] {
            assert!(check_json(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_json(&[b'"', 0xff, b'"']).is_err());
        assert!(check_json(b" [1] \n").is_ok());
    }

    #[test]
    fn i1_nesting_is_bounded() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check_json(nested(MAX_JSON_DEPTH).as_bytes()).is_ok());
        assert!(check_json(nested(MAX_JSON_DEPTH + 1).as_bytes()).is_err());
        assert!(check_json(nested(1_000_000).as_bytes()).is_err());
        assert!(check_json(br#""[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[[[[""#).is_ok());
    }
}
