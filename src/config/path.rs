//! Paths of settings: `limits.max_connections`, `channels[0].match`.

use std::fmt;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    Key(String),
    Index(usize),
}

/// The path from the root of the settings to one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

impl Path {
    pub fn root() -> Self {
        Self::default()
    }

    pub fn of(key: &str) -> Self {
        Self::root().key(key)
    }

    pub fn key(&self, key: &str) -> Self {
        self.child(Segment::Key(key.to_owned()))
    }

    pub fn index(&self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    pub fn child(&self, segment: Segment) -> Self {
        Self(self.0.iter().cloned().chain([segment]).collect())
    }

    /// Builds a path from the words of a variable or flag; a number is an index.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            words
                .into_iter()
                .map(|word| match word.parse() {
                    Ok(index) => Segment::Index(index),
                    Err(_) => Segment::Key(word.to_owned()),
                })
                .collect(),
        )
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn starts_with(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The last key: `channels` for `channels[0]`.
    pub fn last_key(&self) -> &str {
        self.0
            .iter()
            .rev()
            .find_map(|segment| match segment {
                Segment::Key(key) => Some(key.as_str()),
                Segment::Index(_) => None,
            })
            .unwrap_or("")
    }

    /// The path without indexes: `channels[].match`.
    pub fn pattern(&self) -> String {
        self.render(|_| "[]".to_owned())
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        let words: Vec<String> = self
            .0
            .iter()
            .map(|segment| match segment {
                Segment::Key(key) => key.to_uppercase().replace('-', "_"),
                Segment::Index(index) => index.to_string(),
            })
            .collect();
        format!("LASTMILE_{}", words.join("__"))
    }

    fn render(&self, index: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Index(number) => text.push_str(&index(*number)),
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    if is_plain(key) { text.push_str(key) } else { text.push_str(&format!("{key:?}")) }
                }
            }
        }
        text
    }
}

/// Whether a key can stand in a path without quotes.
pub fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(|index| format!("[{index}]")))
    }
}
