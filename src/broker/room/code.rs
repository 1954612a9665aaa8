//! Short codes that people read out: six digits or three words; short-lived, single use, few attempts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::secret::{Digest, random};
use crate::protocol::Refusal;
use crate::protocol::frame::room_frames::RoomId;

/// 256 short words that are easy to tell apart.
const WORDS: &str = include_str!("words.txt");

/// Wrong codes are counted over this window.
pub const WRONG_CODE_WINDOW: Duration = Duration::from_secs(60);

/// Wrong codes in a window, by address and in all: limits the chance to guess six digits.
pub const MAX_WRONG_CODES_PER_ADDRESS: u32 = 10;
pub const MAX_WRONG_CODES: u32 = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeFormat {
    /// Six digits.
    Digits,
    /// Three words, joined by `-`.
    Words,
}

impl CodeFormat {
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "digits" => Some(Self::Digits),
            "words" => Some(Self::Words),
            _ => None,
        }
    }
}

/// A random code; the caller checks that no other room has it.
pub fn new_code(format: CodeFormat) -> Result<String, Refusal> {
    match format {
        // 2^64 is far above a million: the bias of the remainder is negligible.
        CodeFormat::Digits => Ok(format!("{:06}", u64::from_le_bytes(random()?) % 1_000_000)),
        CodeFormat::Words => {
            let words: Vec<_> = WORDS.lines().collect();
            let chosen = random::<3>()?.map(|index| words.get(usize::from(index)).copied().unwrap_or("zone"));
            Ok(chosen.join("-"))
        }
    }
}

/// The canonical spelling of a code: lower case, separators normalized.
pub fn canonical(code: &str) -> String {
    let code = code.trim().to_lowercase();
    if code.starts_with(|first: char| first.is_ascii_digit()) {
        code.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
    } else {
        code.split([' ', '-']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }
}

/// The code of one room, dropped with the room.
pub struct RoomCode {
    pub digest: Digest,
    pub text: String,
    pub expires: Instant,
    pub tries_left: u32,
}

/// The room of each code, and the counts of wrong codes.
#[derive(Default)]
pub struct Codes {
    rooms: HashMap<String, RoomId>,
    wrong: u32,
    wrong_by_address: HashMap<IpAddr, u32>,
    window: Option<Instant>,
}

impl Codes {
    /// `false` if another room has the code.
    pub fn insert(&mut self, code: &str, room: RoomId) -> bool {
        if self.rooms.contains_key(code) {
            return false;
        }
        self.rooms.insert(code.to_owned(), room);
        true
    }

    pub fn remove(&mut self, code: &str) {
        self.rooms.remove(code);
    }

    pub fn room(&self, code: &str) -> Option<RoomId> {
        self.rooms.get(code).copied()
    }

    /// Whether the limits of wrong codes allow another attempt of `address`.
    pub fn may_try(&mut self, address: Option<IpAddr>, now: Instant) -> bool {
        if self.window.is_none_or(|began| now.saturating_duration_since(began) >= WRONG_CODE_WINDOW) {
            self.window = Some(now);
            self.wrong = 0;
            // Bounded by the number of wrong codes in a window.
            self.wrong_by_address = HashMap::new();
        }
        let by_address = address.and_then(|address| self.wrong_by_address.get(&address)).copied().unwrap_or(0);
        self.wrong < MAX_WRONG_CODES && by_address < MAX_WRONG_CODES_PER_ADDRESS
    }

    pub fn count_wrong(&mut self, address: Option<IpAddr>) {
        self.wrong = self.wrong.saturating_add(1);
        if let Some(address) = address {
            let count = self.wrong_by_address.entry(address).or_default();
            *count = count.saturating_add(1);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.rooms.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn word_list_has_256_words() {
        let words: Vec<_> = WORDS.lines().collect();
        assert_eq!(words.len(), 256);
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), 256);
        assert!(words.iter().all(|word| (3..=6).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase())));
    }

    #[test]
    fn canonical_ignores_separators_and_case() {
        assert_eq!(canonical(" 123 456 "), "123456");
        assert_eq!(canonical("123-456"), "123456");
        assert_eq!(canonical("Apple  river-STONE"), "apple-river-stone");
        for format in [CodeFormat::Digits, CodeFormat::Words] {
            let code = new_code(format).unwrap();
            assert_eq!(canonical(&code), code);
        }
    }

    #[test]
    fn wrong_codes_are_limited() {
        let start = Instant::now();
        let mut codes = Codes::default();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for _ in 0..MAX_WRONG_CODES_PER_ADDRESS {
            assert!(codes.may_try(address(1), start));
            codes.count_wrong(address(1));
        }
        assert!(!codes.may_try(address(1), start));
        assert!(codes.may_try(address(2), start));
        (0..MAX_WRONG_CODES).for_each(|n| codes.count_wrong(address(n + 10)));
        assert!(!codes.may_try(address(2), start));
        assert!(codes.may_try(address(1), start + WRONG_CODE_WINDOW));
    }
}
