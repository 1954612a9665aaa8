//! What is wrong with the settings, in words for the operator. Never shows a secret.

use std::fmt;

use serde_json::Value;

use super::origin::Origins;
use super::path::Path;

/// More mistakes than this are counted, not shown.
const MAX_SHOWN: usize = 20;

/// Longest value that is shown, in characters.
const MAX_VALUE: usize = 80;

/// Every mistake in the settings; `Display` has a line for each after a first line with their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    mistakes: Vec<String>,
}

/// Collects mistakes and warnings while the settings are read.
#[derive(Debug, Default)]
pub struct Report {
    pub origins: Origins,
    mistakes: Vec<(Path, String)>,
    warnings: Vec<String>,
}

impl Report {
    pub fn new(origins: Origins) -> Self {
        Self { origins, ..Self::default() }
    }

    /// A value that cannot be; `right` says what would be right, `must be …`.
    pub fn wrong(&mut self, path: &Path, value: impl Into<Value>, right: impl fmt::Display) {
        let line = format!("{path} = {} ({}): {right}", shown(path, &value.into()), self.origins.of(path));
        self.mistakes.push((path.clone(), line));
    }

    /// A value that is missing in `table`. A mistake that is known already may be the reason; that one is enough.
    pub fn missing(&mut self, table: &Path, key: &str, right: impl fmt::Display) {
        let path = table.key(key);
        if !self.has_mistake_in(&path) {
            let line = format!("{path} is not set ({}): {right}", self.origins.of(table));
            self.mistakes.push((path, line));
        }
    }

    /// A key that should not be there. Its value is not shown, it may be anything.
    pub fn misplaced(&mut self, path: &Path, why: impl fmt::Display) {
        let line = format!("{path} ({}): {why}", self.origins.of(path));
        self.mistakes.push((path.clone(), line));
    }

    /// A key that does not exist.
    pub fn unknown(&mut self, path: &Path, meant: Option<Path>) {
        let line = match &meant {
            Some(meant) => {
                format!("{path} ({}): no such setting; did you mean {meant}?", self.origins.of(path))
            }
            None => format!("{path} ({}): no such setting", self.origins.of(path)),
        };
        self.mistakes.push((meant.unwrap_or_else(|| path.clone()), line));
    }

    /// A mistake of another form, said in full; `meant` is the setting that it is about.
    pub fn mistake(&mut self, meant: Path, line: String) {
        self.mistakes.push((meant, line));
    }

    pub fn has_mistake_in(&self, path: &Path) -> bool {
        self.mistakes.iter().any(|(known, _)| known.starts_with(path))
    }

    pub fn warn(&mut self, path: &Path, what: impl fmt::Display) {
        self.warnings.push(format!("{path} ({}): {what}", self.origins.of(path)));
    }

    /// A warning of another form, said in full.
    pub fn remark(&mut self, line: String) {
        self.warnings.push(line);
    }

    /// The warnings, or every mistake.
    pub fn finish(self) -> Result<Vec<String>, ConfigError> {
        if self.mistakes.is_empty() {
            return Ok(self.warnings);
        }
        Err(ConfigError { mistakes: self.mistakes.into_iter().map(|(_, line)| line).collect() })
    }
}

impl From<String> for ConfigError {
    fn from(mistake: String) -> Self {
        Self { mistakes: vec![mistake] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => write!(f, "1 mistake in the configuration:")?,
            count => write!(f, "{count} mistakes in the configuration:")?,
        }
        for mistake in self.mistakes.iter().take(MAX_SHOWN) {
            write!(f, "\n  {mistake}")?;
        }
        match self.mistakes.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A value as people write it, cut short; a secret is not shown.
fn shown(path: &Path, value: &Value) -> String {
    let text = value.to_string();
    if ["auth_tokens", "password_argon2", "url"].contains(&path.last_key()) || text.contains("PRIVATE KEY") {
        return "(not shown)".to_owned();
    }
    match text.char_indices().nth(MAX_VALUE) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
