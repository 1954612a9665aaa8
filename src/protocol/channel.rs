//! Names of channels and the patterns that match them.

use std::fmt;
use std::sync::Arc;

/// Longest name of a channel, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// The name of a channel.
///
/// On our own protocol a name has 1 to 255 bytes of UTF-8, holds no control characters and does
/// not begin with `$`, which is reserved for the gateway ([`ChannelName::parse`]). The older
/// dialects allow any string, so they use [`ChannelName::from_dialect`], which only bounds the
/// length. Names are compared byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a string is not the name of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidName {
    Empty,
    TooLong,
    ControlCharacter,
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

    /// A name as the older dialects allow it: any string of at most [`MAX_NAME_BYTES`].
    pub fn from_dialect(name: &str) -> Result<Self, InvalidName> {
        if name.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong);
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters (C0, DEL, C1) and the invisible ones that reorder text.
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

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a channel name must not be empty",
            Self::TooLong => "a channel name has at most 255 bytes",
            Self::ControlCharacter => "a channel name holds no control characters",
            Self::Reserved => "channel names that begin with `$` are reserved",
        })
    }
}

impl std::error::Error for InvalidName {}

/// A pattern of channel names: `*` stands for any run of characters, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Linear in the length of `name` for a given pattern: each literal part is searched once, left to right.
    pub fn matches(&self, name: &ChannelName) -> bool {
        let name = name.as_str();
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
    fn a_name_is_refused_with_its_reason() {
        assert_eq!(ChannelName::parse(""), Err(InvalidName::Empty));
        assert_eq!(ChannelName::parse(&"x".repeat(256)), Err(InvalidName::TooLong));
        assert_eq!(ChannelName::parse("a\nb"), Err(InvalidName::ControlCharacter));
        assert_eq!(ChannelName::parse("a\u{202e}b"), Err(InvalidName::ControlCharacter));
        assert_eq!(ChannelName::parse("$sys"), Err(InvalidName::Reserved));
        assert!(ChannelName::parse("prices/btc é 🚀").is_ok());
        assert!(ChannelName::from_dialect("\0").is_ok());
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
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
