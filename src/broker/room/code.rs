//! Short codes that people read out: digits or words; short-lived, single use, few attempts.

use std::collections::HashMap;
use std::time::Instant;

use serde::Deserialize;

use super::secret::{Digest, random};
use super::wrong_codes::{MAX_WRONG_CODES_PER_MINUTE, WrongCodes};
use crate::protocol::Refusal;
use crate::protocol::frame::room_frames::RoomId;

/// 256 short words that are easy to tell apart.
const WORDS: &str = include_str!("words.txt");

/// All wrong codes of a minute together hit a code with a lower chance than one in this.
const MIN_ODDS_PER_MINUTE: u64 = 1000;

/// More codes make no difference to their length.
const MAX_ALIVE_CODES: u64 = 1_000_000;

/// The shortest codes.
const MIN_DIGITS: u32 = 6;
const MIN_WORDS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeFormat {
    /// Six digits or more.
    Digits,
    /// Three words or more, joined by `-`.
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

/// A random code, as long as `alive` codes need; the caller checks that no other room has it.
pub fn new_code(format: CodeFormat, alive: u64) -> Result<String, Refusal> {
    let number = u64::from_le_bytes(random()?);
    match format {
        CodeFormat::Digits => {
            let digits = length(10, MIN_DIGITS, alive);
            // 2^64 is far above the number of codes: the bias of the remainder is negligible.
            Ok(format!("{:0width$}", number % 10u64.pow(digits), width = digits as usize))
        }
        CodeFormat::Words => {
            let words: Vec<_> = WORDS.lines().collect();
            let chosen = number.to_le_bytes().map(|index| words.get(usize::from(index)).copied().unwrap_or("zone"));
            Ok(chosen[..length(256, MIN_WORDS, alive) as usize].join("-"))
        }
    }
}

/// Symbols of a code, so that guessing is hopeless while `alive` codes of this length may be hit. At most 12 digits
/// or 5 words.
fn length(symbols: u64, min: u32, alive: u64) -> u32 {
    let guesses = u128::from(MAX_WRONG_CODES_PER_MINUTE * MIN_ODDS_PER_MINUTE);
    let hits = guesses * u128::from(alive.clamp(1, MAX_ALIVE_CODES));
    (min..).find(|length| u128::from(symbols).pow(*length) > hits).unwrap_or(min)
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

/// The room of each code, and the wrong codes.
#[derive(Default)]
pub struct Codes {
    rooms: HashMap<String, RoomId>,
    pub wrong: WrongCodes,
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

    /// Codes that are valid.
    pub fn count(&self) -> u64 {
        self.rooms.len() as u64
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
            let code = new_code(format, 1).unwrap();
            assert_eq!(canonical(&code), code);
        }
    }

    #[test]
    fn length_rises_with_codes_alive() {
        for (alive, digits, words) in
            [(0, 6, 3), (1, 6, 3), (2, 7, 3), (27, 8, 3), (28, 8, 4), (1_000, 9, 4), (100_000, 11, 5)]
        {
            let code = new_code(CodeFormat::Digits, alive).unwrap();
            assert_eq!((code.len(), code.bytes().all(|byte| byte.is_ascii_digit())), (digits, true), "{alive}: {code}");
            assert_eq!(new_code(CodeFormat::Words, alive).unwrap().split('-').count(), words, "{alive}");
            for (symbols, length) in [(10f64, digits), (256f64, words)] {
                let hits = MAX_WRONG_CODES_PER_MINUTE as f64 * alive as f64 / symbols.powi(length as i32);
                assert!(hits < 0.001, "{alive} codes: {hits}");
            }
        }
        assert!(new_code(CodeFormat::Digits, u64::MAX).unwrap().len() <= 12);
    }
}
