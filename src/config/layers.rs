//! Merges the sources: defaults, file, environment, flags.

use std::path::{Path as FilePath, PathBuf};

use config::{Config, File, FileFormat};
use serde_json::Value;
use toml::de::DeTable;

use super::files::read_text;
use super::origin::{FileLines, Origins};
use super::overrides;
use super::report::{ConfigError, Report, may_hold_secret};
use super::schema::Schema;
use super::settings::DEFAULT_LISTENERS;
use super::sources::{FILE_VARIABLE, Sources};

/// Read if no other file is named.
const DEFAULT_FILE: &str = "config/lastmile.toml";

/// The merged sources, before validation against the schema.
pub struct Layers {
    pub tree: Value,
    pub report: Report,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Layers {
    pub fn read(sources: &Sources, schema: &Schema) -> Result<Self, ConfigError> {
        let file = file_of(sources);
        let text = match &file {
            Some(file) => read_text(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => String::new(),
        };
        let name = file.as_deref().unwrap_or(FilePath::new("")).display().to_string();
        let document = DeTable::parse(&text).map_err(|error| syntax_error(&name, &text, &error))?;
        // Also parses the values: later errors about a number out of range would lack the line.
        toml::from_str::<toml::Table>(&text).map_err(|error| syntax_error(&name, &text, &error))?;
        let listeners = document.get_ref().get("listeners").and_then(|listeners| listeners.get_ref().as_table());
        let names_listeners = listeners.is_some_and(|listeners| !listeners.is_empty());
        let mut report = Report::new(Origins::of_file(Some(FileLines::new(name, &text, document.get_ref()))));

        let mut builder = Config::builder();
        if !names_listeners {
            builder = builder.add_source(File::from_str(DEFAULT_LISTENERS, FileFormat::Toml));
        }
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        let base = tree_of(builder.clone())?;
        for (path, value) in overrides::read(sources, schema, &base, &mut report) {
            builder = builder.set_override(path.to_string(), value).map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(Self { tree: tree_of(builder)?, report, file })
    }
}

/// Returns the named file, or the default one if it exists.
fn file_of(sources: &Sources) -> Option<PathBuf> {
    let is_named = |(name, value): &&(String, String)| name == FILE_VARIABLE && !value.is_empty();
    let variable = || sources.env.iter().find(is_named).map(|(_, value)| value.into());
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
    sources.file.clone().or_else(variable).or_else(default)
}

fn tree_of(builder: config::ConfigBuilder<config::builder::DefaultState>) -> Result<Value, ConfigError> {
    let merged = builder.build().and_then(Config::try_deserialize::<Value>);
    merged.map_err(|error| ConfigError::from(error.to_string()))
}

/// Formats an error with line, column and caret. The line itself is omitted if the file holds secrets.
fn syntax_error(name: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let mut error = error.clone();
    if may_hold_secret(text) {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        return ConfigError::from(format!("{name}, line {line}: {}", error.message()));
    }
    error.set_input(Some(text));
    ConfigError::from(format!("{name}: {}", error.to_string().trim_end().replace('\n', "\n  ")))
}
