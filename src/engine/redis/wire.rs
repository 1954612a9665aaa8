//! The encoding of a channel's messages in its pub/sub; its stream stores publications in the same form.
//!
//! `p EPOCH OFFSET MS KIND PUBLISHER_BYTES PUBLISHER DATA` is a publication, accepted at MS since 1970. `e EPOCH REASON` is
//! the end of the channel. `l EPOCH` makes mirrors resync. `w NODE` requests presence updates for a node. DATA is last and
//! may be any bytes. With a cluster key, `q EPOCH OFFSET MS NODE ID MAC KIND …` is a publication: NODE accepted it at ID,
//! in microseconds since 1970. MAC begins with `b` if it covers the position, and with `f` if not.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::cluster_key::Mac;
use crate::broker::{ChannelLimits, Now};
use crate::protocol::{ChannelName, CloseReason, Payload, Position, Publication};

/// JavaScript reads no larger number exactly, and no channel reaches it.
pub const MAX_OFFSET: u64 = 1 << 53;

/// Longer than every name that a node gives itself.
const MAX_NODE_NAME_BYTES: usize = 32;

/// A message of a channel's pub/sub, or an entry of its stream.
pub enum Message {
    Publication(Received),
    End { epoch: String, reason: CloseReason },
    Resync,
    Watch { node: String },
}

/// A publication as Redis stores it.
pub struct Received {
    pub epoch: String,
    pub offset: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// With a cluster key.
    pub proof: Option<Proof>,
    content: Vec<u8>,
}

/// The proof that a node accepted a publication.
pub struct Proof {
    pub node: String,
    /// Rises with the publications of the node; microseconds since 1970.
    pub id: u64,
    /// The MAC covers epoch and offset.
    pub is_bound: bool,
    pub mac: Mac,
}

/// Kind, publisher and data: the part of a publication that is known before its offset.
pub fn encode(publisher: &str, payload: Payload<'_>) -> Vec<u8> {
    let (kind, data) = match payload {
        Payload::Json(text) => ('j', text.as_bytes()),
        Payload::Text(text) => ('t', text.as_bytes()),
        Payload::Binary(bytes) => ('b', bytes),
    };
    let head = format!("{kind} {} {publisher} ", publisher.len());
    [head.as_bytes(), data].concat()
}

impl Message {
    /// `None` if the message is malformed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = field(bytes)?;
        match tag {
            "p" | "q" => {
                let (epoch, rest) = field(rest)?;
                let (offset, rest) = field(rest)?;
                let (time, rest) = field(rest)?;
                let (proof, content) = if tag == "q" { Proof::read(rest)? } else { (None, rest) };
                let received = Received {
                    epoch: epoch.to_owned(),
                    offset: offset.parse().ok().filter(|offset| (1..=MAX_OFFSET).contains(offset))?,
                    // The time of the node is authentic, that of Redis is not.
                    time: proof.as_ref().map_or_else(|| time.parse().ok(), |proof| Some(proof.id / 1000))?,
                    proof,
                    content: content.to_vec(),
                };
                received.parts()?;
                Some(Self::Publication(received))
            }
            "e" => {
                let (epoch, reason) = field(rest)?;
                Some(Self::End { epoch: epoch.to_owned(), reason: reason_of(std::str::from_utf8(reason).ok()?)? })
            }
            "l" => Some(Self::Resync),
            "w" => {
                let node = std::str::from_utf8(rest).ok().filter(|node| is_node_name(node))?;
                Some(Self::Watch { node: node.to_owned() })
            }
            _ => None,
        }
    }
}

impl Proof {
    fn read(bytes: &[u8]) -> Option<(Option<Self>, &[u8])> {
        let (node, rest) = field(bytes)?;
        let (id, rest) = field(rest)?;
        let (mac, rest) = field(rest)?;
        let (is_bound, mac) = match mac.split_at_checked(1)? {
            ("b", mac) => (true, mac),
            ("f", mac) => (false, mac),
            _ => return None,
        };
        let mac = BASE64.decode(mac).ok()?.try_into().ok()?;
        let node = Some(node).filter(|node| is_node_name(node))?.to_owned();
        Some((Some(Self { node, id: id.parse().ok()?, is_bound, mac }), rest))
    }
}

/// Whether a node can have this name.
pub fn is_node_name(name: &str) -> bool {
    (1..=MAX_NODE_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Received {
    /// As [`encode`] returned it.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The publisher and the payload.
    fn parts(&self) -> Option<(&str, Payload<'_>)> {
        let (kind, rest) = field(&self.content)?;
        let (length, rest) = field(rest)?;
        let (publisher, rest) = rest.split_at_checked(length.parse().ok()?)?;
        let (b" ", data) = rest.split_at_checked(1)? else { return None };
        let payload = match kind {
            "j" => Payload::Json(std::str::from_utf8(data).ok()?),
            "t" => Payload::Text(std::str::from_utf8(data).ok()?),
            "b" => Payload::Binary(data),
            _ => return None,
        };
        Some((std::str::from_utf8(publisher).ok()?, payload))
    }

    /// The publication, the same on every node, with its publisher and the size of its payload.
    pub fn publication(&self, channel: &ChannelName) -> Option<(Publication, &str, u64)> {
        let (publisher, payload) = self.parts()?;
        let time = jiff::Timestamp::from_millisecond(self.time.try_into().ok()?).ok()?;
        let position = Position { epoch: self.epoch.as_str().into(), offset: self.offset };
        Some((Publication::new(channel, &position, time, publisher, payload), publisher, payload.len() as u64))
    }
}

/// The time `age` ago, on both clocks.
pub fn created(age: Duration) -> Now {
    let now = Now::read();
    Now {
        monotonic: now.monotonic.checked_sub(age).unwrap_or(now.monotonic),
        wall: now.wall.checked_sub(age).unwrap_or(now.wall),
    }
}

/// The close reason of this name.
pub fn reason_of(name: &str) -> Option<CloseReason> {
    CloseReason::ALL.into_iter().find(|reason| reason.name() == name)
}

/// Limits that a publisher declared, as `create.lua` stores them.
pub fn limits(declared: &str) -> Option<ChannelLimits> {
    let mut numbers = declared.split(' ').map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(ChannelLimits {
        max_messages: next()?,
        max_data_bytes: next()?,
        max_message_bytes: next()?,
        lifespan: Duration::from_millis(next()?),
        max_connections: next()?,
    })
}

/// Splits at the first space.
fn field(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Form;

    #[test]
    fn publication_is_equal_on_every_node() {
        let name = ChannelName::parse("c").unwrap();
        for payload in [Payload::Json("{\"a\": 1 }"), Payload::Text("a b\nc"), Payload::Binary(&[0, 255, 32, 10])] {
            let bytes = [b"p k3 42 1795251600123 ", &encode("market data", payload)[..]].concat();
            let Some(Message::Publication(received)) = Message::read(&bytes) else { panic!("{payload:?}") };
            let (publication, publisher, bytes) = received.publication(&name).unwrap();
            assert_eq!((publisher, bytes), ("market data", payload.len() as u64));
            let position = Position { epoch: "k3".into(), offset: 42 };
            let time = jiff::Timestamp::from_millisecond(1_795_251_600_123).unwrap();
            let expected = Publication::new(&name, &position, time, "market data", payload);
            assert_eq!(publication.frame(Form::Native), expected.frame(Form::Native));
        }
    }

    #[test]
    fn malformed_messages_are_rejected() {
        for bytes in [
            &b""[..],
            b"p",
            b"p ",
            b"p k 1 2 ",
            b"p k 0 2 j 1 p {}",
            b"p k 1 2 j 9 p {}",
            b"p k 1 2 j 1 p",
            b"p k 1 2 t 1 p \xff",
            b"e k nothing",
            b"x y",
            b"p k -1 2 j 1 p {}",
            b"p k 1 2 j 99999999999999999999 p {}",
            b"p k 9007199254740993 2 j 1 p {}",
            b"q k 1 2 j 1 p {}",
            b"q k 1 2 n 3 bAAAAAAAAAAAAAAAAAAAAA= j 1 p {}",
            b"q k 1 2 n 3 xAAAAAAAAAAAAAAAAAAAAAA j 1 p {}",
            b"q k 1 2 n\xc3\xa9 3 bAAAAAAAAAAAAAAAAAAAAAA j 1 p {}",
            b"w ../a",
            b"w ",
            b"\xff \xff",
        ] {
            assert!(Message::read(bytes).is_none(), "{bytes:?}");
        }
        assert!(matches!(Message::read(b"e k channel_closed"), Some(Message::End { .. })));
        assert!(matches!(Message::read(b"l k"), Some(Message::Resync)));
        assert!(matches!(Message::read(b"w abcdefgh"), Some(Message::Watch { node }) if node == "abcdefgh"));
    }
}
