//! Channel names, flock topics and patterns of names.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Longest channel name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest flock topic, in bytes of UTF-8.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// Prefix of the channels for flock topics that are not channel names. Native clients cannot use these channels.
pub const TOPIC_PREFIX: &str = "$flock:";

/// ASCII characters of a topic that are escaped as `%XX`. Other characters than ASCII are always escaped.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The name of a channel.
///
/// A native name has 1 to 255 bytes of UTF-8 and no control characters. It does not begin with `$`, which is reserved
/// for the gateway ([`ChannelName::parse`]). The tslm protocol allows any string up to that length
/// ([`ChannelName::from_dialect`]). Names are compared byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a string is not a channel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("channel name is empty")]
    Empty,
    #[error("channel name is longer than 255 bytes")]
    TooLong,
    #[error("channel name contains a control character")]
    ControlCharacter,
    #[error("channel names that begin with `$` are reserved")]
    Reserved,
}

impl ChannelName {
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.starts_with('$') {
            return Err(InvalidName::Reserved);
        }
        if name.chars().any(is_unprintable) {
            return Err(InvalidName::ControlCharacter);
        }
        Self::from_dialect(name)
    }

    /// A tslm channel: any string of at most [`MAX_NAME_BYTES`].
    pub fn from_dialect(name: &str) -> Result<Self, InvalidName> {
        if name.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong);
        }
        Ok(Self(name.into()))
    }

    /// The channel of a flock topic, which is any string of at most [`MAX_TOPIC_BYTES`]. No two topics share a channel.
    ///
    /// A topic that is a channel name maps to that channel. Other topics (empty, reserved, with control characters, too
    /// long for a name) map to [`TOPIC_PREFIX`] and the percent-encoded topic.
    pub fn from_topic(topic: &str) -> Result<Self, InvalidName> {
        match Self::parse(topic) {
            Ok(name) => Ok(name),
            Err(_) if topic.len() > MAX_TOPIC_BYTES => Err(InvalidName::TooLong),
            Err(_) => Ok(Self(format!("{TOPIC_PREFIX}{}", utf8_percent_encode(topic, ESCAPED)).into())),
        }
    }

    /// A valid name, read from an engine's store.
    pub fn from_stored(name: &str) -> Result<Self, InvalidName> {
        let max_bytes = TOPIC_PREFIX.len() + 3 * MAX_TOPIC_BYTES;
        if name.len() <= max_bytes { Ok(Self(name.into())) } else { Err(InvalidName::TooLong) }
    }

    /// The inverse of [`ChannelName::from_topic`].
    pub fn topic(&self) -> Cow<'_, str> {
        match self.0.strip_prefix(TOPIC_PREFIX) {
            Some(escaped) => percent_decode_str(escaped).decode_utf8_lossy(),
            None => Cow::Borrowed(&self.0),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters (C0, DEL, C1), invisible characters and those that reorder text.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A pattern of channel names. `*` matches any run of characters, every other character itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every channel of `other` is one of this pattern: a pattern that matches the text of another one matches
    /// all its channels.
    pub fn includes(&self, other: &Pattern) -> bool {
        self.matches_text(&other.0)
    }

    /// Whether a channel may match both patterns, by the text before and after their wildcards.
    pub fn may_overlap(&self, other: &Pattern) -> bool {
        let ends = |pattern: &'_ Pattern| {
            let text = pattern.0.as_ref();
            let (head, tail) = (text.split('*').next().unwrap_or(text), text.rsplit('*').next().unwrap_or(text));
            (head.to_owned(), tail.to_owned())
        };
        let ((head, tail), (other_head, other_tail)) = (ends(self), ends(other));
        let both_begin = head.starts_with(&other_head) || other_head.starts_with(&head);
        both_begin && (tail.ends_with(&other_tail) || other_tail.ends_with(&tail))
    }

    pub fn matches(&self, name: &ChannelName) -> bool {
        self.matches_text(name.as_str())
    }

    /// Searches each literal part once from left to right, so the time is linear in the length of `name`.
    fn matches_text(&self, name: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return *self.0 == *name;
        };
        let Some(mut name) = name.strip_prefix(head) else {
            return false;
        };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            match name.find(part) {
                Some(at) => name = &name[at + part.len()..],
                None => return false,
            }
        }
        name.ends_with(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_invalid_names() {
        assert_eq!(ChannelName::parse(""), Err(InvalidName::Empty));
        assert_eq!(ChannelName::parse(&"x".repeat(256)), Err(InvalidName::TooLong));
        assert_eq!(ChannelName::parse("a\nb"), Err(InvalidName::ControlCharacter));
        assert_eq!(ChannelName::parse("a\u{202e}b"), Err(InvalidName::ControlCharacter));
        assert_eq!(ChannelName::parse("$sys"), Err(InvalidName::Reserved));
        assert!(ChannelName::parse("prices/btc é 🚀").is_ok());
        assert!(ChannelName::from_dialect("\0").is_ok());
    }

    #[test]
    fn topic_name_maps_to_channel() {
        for topic in ["t1", "a/b/c", "sp ace", "é", "?", "#", "../subscription", "🦆", "100%25", &"x".repeat(255)] {
            assert_eq!(ChannelName::from_topic(topic), ChannelName::parse(topic), "{topic}");
        }
        for (topic, channel) in [
            ("", "$flock:"),
            ("$sys", "$flock:$sys"),
            ("$flock:", "$flock:$flock:"),
            ("a\nb", "$flock:a%0Ab"),
            ("a\u{200b}é%0A", "$flock:a%E2%80%8B%C3%A9%250A"),
        ] {
            let name = ChannelName::from_topic(topic).unwrap();
            assert_eq!((name.as_str(), &*name.topic()), (channel, topic));
            assert!(ChannelName::parse(channel).is_err());
        }
        let long = "é".repeat(MAX_TOPIC_BYTES / 2);
        let name = ChannelName::from_topic(&long).unwrap();
        assert_eq!(name.topic(), long);
        assert_eq!(ChannelName::from_stored(name.as_str()), Ok(name));
        assert_eq!(ChannelName::from_topic(&format!("{long}x")), Err(InvalidName::TooLong));
    }

    #[test]
    fn topics_never_share_a_channel() {
        proptest::proptest!(|(one in ".{0,40}", other in ".{0,40}")| {
            let (a, b) = (ChannelName::from_topic(&one).unwrap(), ChannelName::from_topic(&other).unwrap());
            assert_eq!(a.topic(), one);
            assert_eq!(a == b, one == other);
        });
    }

    #[test]
    fn star_matches_any_run() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let matched = Pattern::new(pattern).matches(&ChannelName::from_dialect(name).unwrap());
            assert_eq!(matched, expected, "{pattern} against {name}");
        };
        check("prices.*", "prices.btc", true);
        check("prices.*", "prices.btc.eur", true);
        check("prices.*", "prices.", true);
        check("prices.*", "prices", false);
        check("prices.*", "xprices.btc", false);
        check("*", "", true);
        check("*", "anything", true);
        check("a*b", "ab", true);
        check("a*b", "a", false);
        check("a*a", "a", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "acb", false);
        check("**x", "yx", true);
        check("exact", "exact", true);
        check("exact", "exactly", false);
    }
}
