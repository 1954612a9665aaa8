//! Cursor of event streams and polls: a client's position in each of its channels, as one opaque string.
//!
//! A cursor is self-contained: any node accepts it, and no node stores it. It needs no signature, because it grants
//! nothing: every request is authorized. Checks exist to report mistakes of clients.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{ChannelName, ErrorCode, Position, Refusal};

/// Most channels of a cursor, and therefore of a request.
pub const MAX_CHANNELS: usize = 100;

/// Longest cursor, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;

/// Version of the encoding.
const VERSION: u8 = 1;

/// Positions of one client in its channels.
///
/// Encoding, before base64url without padding: the version and 8 bytes for the owner. Each channel follows, in rising
/// order: 8 bytes for its name, 8 for the offset, 1 for the length of the epoch, and the epoch. Names are digests,
/// because a resuming client sends the names anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    owner: Owner,
    /// Sorted by name.
    positions: Vec<(u64, Position)>,
}

/// Owner of a cursor: a digest of issuer and subject, or 0 for a client without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

/// Why a cursor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCursor {
    Malformed,
    OtherOwner,
    OtherChannels,
    /// It is ahead of its channel.
    Future,
}

impl Owner {
    pub const ANONYMOUS: Self = Self(0);

    pub fn of(issuer: &str, subject: &str) -> Self {
        // The length separates pairs whose concatenation is the same.
        Self(digest(&[&issuer.len().to_be_bytes(), issuer.as_bytes(), subject.as_bytes()]))
    }
}

impl Cursor {
    pub fn new(owner: Owner) -> Self {
        Self { owner, positions: Vec::new() }
    }

    /// Parses the `Display` form of a [`Cursor`].
    pub fn parse(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > MAX_BYTES {
            return Err(InvalidCursor::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::Malformed)?;
        read(&bytes).ok_or(InvalidCursor::Malformed)
    }

    /// Refuses a cursor of another owner, or one without any of these channels.
    pub fn check(&self, owner: Owner, channels: &[ChannelName]) -> Result<(), InvalidCursor> {
        if self.owner != owner {
            return Err(InvalidCursor::OtherOwner);
        }
        let is_known = channels.iter().any(|channel| self.position(channel.as_str()).is_some());
        if is_known { Ok(()) } else { Err(InvalidCursor::OtherChannels) }
    }

    pub fn position(&self, channel: &str) -> Option<&Position> {
        self.find(channel).ok().map(|at| &self.positions[at].1)
    }

    pub fn set(&mut self, channel: &str, epoch: &str, offset: u64) {
        match self.find(channel) {
            Ok(at) if *self.positions[at].1.epoch == *epoch => self.positions[at].1.offset = offset,
            Ok(at) => self.positions[at].1 = Position { epoch: epoch.into(), offset },
            Err(at) => self.positions.insert(at, (name(channel), Position { epoch: epoch.into(), offset })),
        }
    }

    fn find(&self, channel: &str) -> Result<usize, usize> {
        let name = name(channel);
        self.positions.binary_search_by_key(&name, |(name, _)| *name)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(9 + self.positions.len() * 32);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.owner.0);
        for (name, Position { epoch, offset }) in &self.positions {
            bytes.put_u64(*name);
            bytes.put_u64(*offset);
            // Epochs are short. A truncated epoch decodes to a different epoch, so the cursor does not resume.
            let epoch = &epoch.as_bytes()[..epoch.len().min(usize::from(u8::MAX))];
            bytes.put_u8(epoch.len() as u8);
            bytes.put_slice(epoch);
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn read(mut bytes: &[u8]) -> Option<Cursor> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut cursor = Cursor::new(Owner(bytes.try_get_u64().ok()?));
    while bytes.has_remaining() {
        let name = bytes.try_get_u64().ok()?;
        let offset = bytes.try_get_u64().ok()?;
        let length = usize::from(bytes.try_get_u8().ok()?);
        let (epoch, rest) = bytes.split_at_checked(length)?;
        let epoch: Arc<str> = std::str::from_utf8(epoch).ok()?.into();
        bytes = rest;
        let is_next = cursor.positions.last().is_none_or(|(before, _)| *before < name);
        if !is_next || cursor.positions.len() == MAX_CHANNELS {
            return None;
        }
        cursor.positions.push((name, Position { epoch, offset }));
    }
    Some(cursor)
}

fn name(channel: &str) -> u64 {
    digest(&[channel.as_bytes()])
}

/// The first 8 bytes of SHA-256.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    (&hasher.finalize()[..]).get_u64()
}

impl From<InvalidCursor> for Refusal {
    fn from(invalid: InvalidCursor) -> Self {
        Self::new(
            ErrorCode::CursorInvalid,
            match invalid {
                InvalidCursor::Malformed => "malformed cursor",
                InvalidCursor::OtherOwner => "cursor belongs to another client, start without one",
                InvalidCursor::OtherChannels => "cursor is for other channels, start without one",
                InvalidCursor::Future => "cursor is ahead of its channel, start without one",
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    #[test]
    fn belongs_to_owner_and_channels() {
        let alice = Owner::of("https://sso", "alice");
        let mut cursor = Cursor::new(alice);
        cursor.set("a", "k3", 7);
        cursor.set("a", "k3", 8);
        assert_eq!(cursor.position("a"), Some(&Position { epoch: "k3".into(), offset: 8 }));
        assert_eq!(cursor.check(alice, &[channel("b"), channel("a")]), Ok(()));
        assert_eq!(cursor.check(alice, &[channel("b")]), Err(InvalidCursor::OtherChannels));
        for other in [Owner::ANONYMOUS, Owner::of("https://ssoa", "lice"), Owner::of("https://sso", "bob")] {
            assert_eq!(cursor.check(other, &[channel("a")]), Err(InvalidCursor::OtherOwner));
        }
    }

    #[test]
    fn refuses_malformed_cursors() {
        let mut cursor = Cursor::new(Owner::ANONYMOUS);
        cursor.set("a", "k3", 7);
        let text = cursor.to_string();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        let twice = [&bytes[..], &bytes[9..]].concat();
        let version = [&[2], &bytes[1..]].concat();
        let cut = (10..bytes.len()).map(|end| bytes[..end].to_vec());
        for bad in cut.chain([twice, version, vec![]]) {
            assert_eq!(Cursor::parse(&URL_SAFE_NO_PAD.encode(bad)), Err(InvalidCursor::Malformed));
        }
        for bad in ["", "*", "é", &format!("{text}="), &"A".repeat(MAX_BYTES + 1), "\r\n"] {
            assert_eq!(Cursor::parse(bad), Err(InvalidCursor::Malformed), "{bad}");
        }
    }

    #[test]
    fn largest_cursor_fits() {
        let mut cursor = Cursor::new(Owner::ANONYMOUS);
        for n in 0..MAX_CHANNELS {
            cursor.set(&n.to_string(), "an epoch of 32 bytes, or about so", u64::MAX);
        }
        let text = cursor.to_string();
        assert!(text.len() < MAX_BYTES, "{}", text.len());
        assert_eq!(Cursor::parse(&text), Ok(cursor));
    }

    proptest! {
        #[test]
        fn parses_any_input(text in "[A-Za-z0-9_-]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Cursor::parse(&text);
            let framed = [&[VERSION; 1], &bytes[..]].concat();
            let encoded = URL_SAFE_NO_PAD.encode(framed);
            if let Ok(cursor) = Cursor::parse(&encoded) {
                prop_assert_eq!(cursor.to_string(), encoded);
            }
        }

        #[test]
        fn round_trip(positions in proptest::collection::hash_map("[a-z]{1,8}", ("[a-z0-9]{0,12}", any::<u64>()), 0..20)) {
            let mut cursor = Cursor::new(Owner::of("i", "s"));
            for (name, (epoch, offset)) in &positions {
                cursor.set(name, epoch, *offset);
            }
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }
    }
}
