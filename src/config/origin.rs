//! The source of each value, for error messages.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File {
        name: String,
        line: usize,
    },
    Variable(String),
    /// The path of `--set`, without its value.
    Flag(String),
    /// A control request.
    Request,
}

/// The source of every value.
#[derive(Debug, Default)]
pub struct Origins {
    file: Option<FileLines>,
    /// Variables, then flags: the last one takes effect.
    overrides: Vec<(Path, Source)>,
}

/// The line of each key in the configuration file.
#[derive(Debug)]
pub struct FileLines {
    name: String,
    lines: BTreeMap<Path, usize>,
}

impl Origins {
    pub fn of_file(file: Option<FileLines>) -> Self {
        Self { file, overrides: Vec::new() }
    }

    pub fn overridden(&mut self, path: Path, source: Source) {
        self.overrides.push((path, source));
    }

    pub fn of(&self, path: &Path) -> Source {
        let overrides = || self.overrides.iter().rev();
        let covering = overrides().find(|(overridden, _)| path.starts_with(overridden));
        let within = || overrides().find(|(overridden, _)| overridden.starts_with(path));
        if let Some((_, source)) = covering {
            return source.clone();
        }
        if let Some(file) = &self.file
            && let Some(line) = file.lines.get(path)
        {
            return Source::File { name: file.name.clone(), line: *line };
        }
        within().map_or(Source::Default, |(_, source)| source.clone())
    }

    /// Whether the file sets a secret itself, and not the file of one.
    pub fn sets_secret(&self) -> bool {
        let lines = self.file.iter().flat_map(|file| file.lines.keys());
        lines.into_iter().any(|path| ["auth_tokens", "password_argon2"].contains(&path.last_key()))
    }

    /// Whether a source sets the value, even to its default.
    pub fn is_set(&self, path: &Path) -> bool {
        self.of(path) != Source::Default
    }
}

impl FileLines {
    pub fn new(name: String, text: &str, document: &DeTable<'_>) -> Self {
        let starts: Vec<usize> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        let mut file = Self { name, lines: BTreeMap::new() };
        file.add_table(&Path::root(), document, &starts);
        file
    }

    fn add_table(&mut self, path: &Path, table: &DeTable<'_>, starts: &[usize]) {
        for (key, value) in table {
            let path = path.key(key.get_ref());
            self.lines.insert(path.clone(), line_of(starts, key.span().start));
            self.add_value(&path, value, starts);
        }
    }

    fn add_value(&mut self, path: &Path, value: &Spanned<DeValue<'_>>, starts: &[usize]) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(path, table, starts),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = path.index(index);
                    self.lines.insert(path.clone(), line_of(starts, item.span().start));
                    self.add_value(&path, item, starts);
                }
            }
            _ => {}
        }
    }
}

/// Returns the line, counted from 1, of a byte offset; `starts` are the offsets at which lines begin.
fn line_of(starts: &[usize], at: usize) -> usize {
    starts.partition_point(|start| *start <= at)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}, line {line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Request => f.write_str("request"),
            Self::Flag(path) => write!(f, "flag --set {path}"),
        }
    }
}
