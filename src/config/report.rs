//! Collects mistakes and warnings for the operator. Never shows a secret.

use std::fmt;

use serde_json::Value;

use super::origin::Origins;
use super::path::Path;

/// Further mistakes are counted, not shown.
const MAX_SHOWN_MISTAKES: usize = 20;

/// Longer values are cut.
const MAX_SHOWN_CHARS: usize = 80;

/// All mistakes in the settings. `Display` prints their number, then one line for each.
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

    /// Reports an invalid value; `right` describes a valid one: `must be …`.
    pub fn wrong(&mut self, path: &Path, value: impl Into<Value>, right: impl fmt::Display) {
        let line = format!("{path} = {} ({}): {right}", shown(path, &value.into()), self.origins.of(path));
        self.mistakes.push((path.clone(), line));
    }

    /// Reports a missing value in `table`, unless the value was already reported and removed.
    pub fn missing(&mut self, table: &Path, key: &str, right: impl fmt::Display) {
        let path = table.key(key);
        if !self.has_mistake_in(&path) {
            let line = format!("{path} is not set ({}): {right}", self.origins.of(table));
            self.mistakes.push((path, line));
        }
    }

    /// Reports a key without showing its value, which may be a secret.
    pub fn misplaced(&mut self, path: &Path, reason: impl fmt::Display) {
        let line = format!("{path} ({}): {reason}", self.origins.of(path));
        self.mistakes.push((path.clone(), line));
    }

    /// Reports an unknown key; `meant` is a suggestion.
    pub fn unknown(&mut self, path: &Path, meant: Option<Path>) {
        let line = match &meant {
            Some(meant) => {
                format!("{path} ({}): no such setting; did you mean {meant}?", self.origins.of(path))
            }
            None => format!("{path} ({}): no such setting", self.origins.of(path)),
        };
        self.mistakes.push((meant.unwrap_or_else(|| path.clone()), line));
    }

    /// Reports a mistake with a complete text about the setting `path`.
    pub fn mistake(&mut self, path: Path, line: String) {
        self.mistakes.push((path, line));
    }

    pub fn has_mistake_in(&self, path: &Path) -> bool {
        self.mistakes.iter().any(|(known, _)| known.starts_with(path))
    }

    pub fn warn(&mut self, path: &Path, text: impl fmt::Display) {
        self.warnings.push(format!("{path} ({}): {text}", self.origins.of(path)));
    }

    /// Adds a warning with a complete text.
    pub fn warn_line(&mut self, line: String) {
        self.warnings.push(line);
    }

    /// Returns the warnings, or all mistakes.
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
        for mistake in self.mistakes.iter().take(MAX_SHOWN_MISTAKES) {
            write!(f, "\n  {mistake}")?;
        }
        match self.mistakes.len().saturating_sub(MAX_SHOWN_MISTAKES) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Settings that hold a secret, or that an operator may give one instead of its file.
const SECRET_KEYS: [&str; 7] =
    ["auth_tokens", "password_argon2", "basic", "url", "seal_keys", "client_secret_file", "password_file"];

/// Whether a text of the configuration may hold a secret: it has such a setting, or something that looks like one.
pub fn may_hold_secret(text: &str) -> bool {
    // A URL of `login` or of an issuer's keys holds none.
    let is_set = SECRET_KEYS.iter().any(|key| *key != "url" && text.contains(key));
    is_set || looks_secret(text)
}

/// Whether a value is a private key, a seal key, or has a password before its host.
fn looks_secret(text: &str) -> bool {
    text.contains("PRIVATE KEY") || text.contains("lastmile-seal:") || text.contains('@')
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => looks_secret(text),
        Value::Array(items) => items.iter().any(holds_secret),
        Value::Object(fields) => {
            fields.iter().any(|(key, value)| SECRET_KEYS.contains(&key.as_str()) || holds_secret(value))
        }
        _ => false,
    }
}

/// Formats a value, shortened; secrets are not shown.
fn shown(path: &Path, value: &Value) -> String {
    if SECRET_KEYS.contains(&path.last_key()) || holds_secret(value) {
        return "(not shown)".to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
