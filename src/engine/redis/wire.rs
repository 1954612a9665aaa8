//! What stands in Redis for one channel, as bytes: the messages of its pub/sub, which its stream keeps as well.
//!
//! `p EPOCH OFFSET MS KIND PUBLISHER_BYTES PUBLISHER DATA` is a publication, accepted at MS since 1970;
//! `e EPOCH REASON` is an end; `l EPOCH` asks nodes to look at the state again, `w NODE`
//! to tell a node who comes and goes. Data are the last and may be any bytes.

use std::time::Duration;

use crate::broker::ChannelLimits;
use crate::protocol::{ChannelName, CloseReason, Payload, Position, Publication};

/// What came over the pub/sub of a channel, or out of its stream.
pub enum Message {
    Publication(Received),
    End { epoch: String, reason: CloseReason },
    Look,
    Watch { node: String },
}

/// A publication as Redis has it.
pub struct Received {
    pub epoch: String,
    pub offset: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    rest: Vec<u8>,
}

/// Kind, publisher and data: what a node says of a publication before it has its place.
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
    /// `None` if this is no message of ours.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = word(bytes)?;
        match tag {
            "p" => {
                let (epoch, rest) = word(rest)?;
                let (offset, rest) = word(rest)?;
                let (time, rest) = word(rest)?;
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
                let (epoch, reason) = word(rest)?;
                Some(Self::End { epoch: epoch.to_owned(), reason: reason_of(std::str::from_utf8(reason).ok()?)? })
            }
            "l" => Some(Self::Look),
            "w" => Some(Self::Watch { node: std::str::from_utf8(rest).ok()?.to_owned() }),
            _ => None,
        }
    }
}

impl Received {
    /// Who published it, and what.
    fn parts(&self) -> Option<(&str, Payload<'_>)> {
        let (kind, rest) = word(&self.rest)?;
        let (length, rest) = word(rest)?;
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

    /// The publication as every node shows it, with its publisher and the bytes that count.
    pub fn publication(&self, channel: &ChannelName) -> Option<(Publication, &str, u64)> {
        let (publisher, payload) = self.parts()?;
        let time = jiff::Timestamp::from_millisecond(self.time.try_into().ok()?).ok()?;
        let position = Position { epoch: self.epoch.as_str().into(), offset: self.offset };
        Some((Publication::new(channel, &position, time, publisher, payload), publisher, payload.len() as u64))
    }
}

/// The reason that a channel ended for.
pub fn reason_of(name: &str) -> Option<CloseReason> {
    CloseReason::ALL.into_iter().find(|reason| reason.name() == name)
}

/// Limits that a publisher declared, as `create.lua` keeps them.
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

/// The text before the first space, and everything behind it.
fn word(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Form;

    #[test]
    fn a_publication_is_the_same_on_every_node() {
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
    fn what_is_no_message_is_nothing() {
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
        assert!(matches!(Message::read(b"l k"), Some(Message::Look)));
        assert!(matches!(Message::read(b"w abcdefgh"), Some(Message::Watch { node }) if node == "abcdefgh"));
    }
}
