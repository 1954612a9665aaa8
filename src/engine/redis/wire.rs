//! The encoding of a channel's messages in its pub/sub; its stream stores publications in the same form.
//!
//! `p EPOCH OFFSET MS KIND PUBLISHER_BYTES PUBLISHER DATA` is a publication, accepted at MS since 1970. `e EPOCH REASON` is
//! the end of the channel. `l EPOCH` makes mirrors resync. `w NODE` requests presence updates for a node. DATA is last and
//! may be any bytes.

use std::time::Duration;

use crate::broker::ChannelLimits;
use crate::protocol::{ChannelName, CloseReason, Payload, Position, Publication};

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
    rest: Vec<u8>,
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
            "p" => {
                let (epoch, rest) = field(rest)?;
                let (offset, rest) = field(rest)?;
                let (time, rest) = field(rest)?;
                let received = Received {
                    epoch: epoch.to_owned(),
                    offset: offset.parse().ok().filter(|offset| *offset > 0)?,
                    time: time.parse().ok()?,
                    rest: rest.to_vec(),
                };
                received.parts()?;
                Some(Self::Publication(received))
            }
            "e" => {
                let (epoch, reason) = field(rest)?;
                Some(Self::End { epoch: epoch.to_owned(), reason: reason_of(std::str::from_utf8(reason).ok()?)? })
            }
            "l" => Some(Self::Resync),
            "w" => Some(Self::Watch { node: std::str::from_utf8(rest).ok()?.to_owned() }),
            _ => None,
        }
    }
}

impl Received {
    /// The publisher and the payload.
    fn parts(&self) -> Option<(&str, Payload<'_>)> {
        let (kind, rest) = field(&self.rest)?;
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
            b"\xff \xff",
        ] {
            assert!(Message::read(bytes).is_none(), "{bytes:?}");
        }
        assert!(matches!(Message::read(b"e k channel_closed"), Some(Message::End { .. })));
        assert!(matches!(Message::read(b"l k"), Some(Message::Resync)));
        assert!(matches!(Message::read(b"w abcdefgh"), Some(Message::Watch { node }) if node == "abcdefgh"));
    }
}
