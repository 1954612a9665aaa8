//! The cursor of the fallbacks: where a client is in each of its channels, as one opaque word.
//!
//! It is self-contained, so that any node takes it and none keeps anything between two requests. It grants nothing,
//! because rights are checked with every request, and so it needs no key; it is checked, so that a client's mistake
//! is told and not guessed at.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{ChannelName, ErrorCode, Position, Refusal};

/// Channels of one cursor, and so of one request.
pub const MAX_CHANNELS: usize = 100;

/// Bytes of a cursor.
pub const MAX_BYTES: usize = 8 * 1024;

/// Names the encoding.
const VERSION: u8 = 1;

/// Positions in channels of one client.
///
/// In bytes, before base64url without padding: the version, 8 bytes for the owner, then for each channel, in rising
/// order, 8 bytes for its name, 8 for the offset, 1 for the length of the epoch, and the epoch. Names are digests:
/// whoever resumes says what it listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    owner: Owner,
    /// Sorted by name.
    places: Vec<(u64, Position)>,
}

/// Whose cursor it is: a digest of issuer and subject, or nothing for a client without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

/// Why a cursor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCursor {
    Malformed,
    OtherOwner,
    OtherChannels,
    /// It names a publication that there is not yet.
    Future,
}

impl Owner {
    pub const ANONYMOUS: Self = Self(0);

    pub fn of(issuer: &str, subject: &str) -> Self {
        // The length keeps two pairs that read the same apart.
        Self(digest(&[&issuer.len().to_be_bytes(), issuer.as_bytes(), subject.as_bytes()]))
    }
}

impl Cursor {
    pub fn new(owner: Owner) -> Self {
        Self { owner, places: Vec::new() }
    }

    /// Reads what [`Cursor`]'s `Display` wrote.
    pub fn parse(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > MAX_BYTES {
            return Err(InvalidCursor::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::Malformed)?;
        read(&bytes).ok_or(InvalidCursor::Malformed)
    }

    /// Refuses a cursor that another client got, or that is for none of these channels.
    pub fn check(&self, owner: Owner, channels: &[ChannelName]) -> Result<(), InvalidCursor> {
        if self.owner != owner {
            return Err(InvalidCursor::OtherOwner);
        }
        let is_known = channels.iter().any(|channel| self.position(channel.as_str()).is_some());
        if is_known { Ok(()) } else { Err(InvalidCursor::OtherChannels) }
    }

    pub fn position(&self, channel: &str) -> Option<&Position> {
        self.find(channel).ok().map(|at| &self.places[at].1)
    }

    pub fn set(&mut self, channel: &str, epoch: &str, offset: u64) {
        match self.find(channel) {
            Ok(at) if *self.places[at].1.epoch == *epoch => self.places[at].1.offset = offset,
            Ok(at) => self.places[at].1 = Position { epoch: epoch.into(), offset },
            Err(at) => self.places.insert(at, (name(channel), Position { epoch: epoch.into(), offset })),
        }
    }

    fn find(&self, channel: &str) -> Result<usize, usize> {
        let name = name(channel);
        self.places.binary_search_by_key(&name, |(name, _)| *name)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(9 + self.places.len() * 32);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.owner.0);
        for (name, Position { epoch, offset }) in &self.places {
            bytes.put_u64(*name);
            bytes.put_u64(*offset);
            // Epochs are a few letters; one that does not fit would be another one when it comes back.
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
        let is_next = cursor.places.last().is_none_or(|(before, _)| *before < name);
        if !is_next || cursor.places.len() == MAX_CHANNELS {
            return None;
        }
        cursor.places.push((name, Position { epoch, offset }));
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
                InvalidCursor::Malformed => "the cursor is none of this gateway's",
                InvalidCursor::OtherOwner => "the cursor was given to somebody else; begin without one",
                InvalidCursor::OtherChannels => "the cursor is for other channels; begin without one",
                InvalidCursor::Future => "the cursor is ahead of its channel; begin without one",
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
    fn a_cursor_belongs_to_its_client_and_its_channels() {
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
    fn what_was_not_written_here_is_malformed() {
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
    fn a_cursor_of_the_most_channels_fits() {
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
        fn anything_is_read_without_panic(text in "[A-Za-z0-9_-]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Cursor::parse(&text);
            let framed = [&[VERSION; 1], &bytes[..]].concat();
            let encoded = URL_SAFE_NO_PAD.encode(framed);
            if let Ok(cursor) = Cursor::parse(&encoded) {
                prop_assert_eq!(cursor.to_string(), encoded);
            }
        }

        #[test]
        fn what_is_written_is_read(places in proptest::collection::hash_map("[a-z]{1,8}", ("[a-z0-9]{0,12}", any::<u64>()), 0..20)) {
            let mut cursor = Cursor::new(Owner::of("i", "s"));
            for (name, (epoch, offset)) in &places {
                cursor.set(name, epoch, *offset);
            }
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }
    }
}
