//! Variables and flags: finds the setting that each one means and gives its value the type of the setting.

use config::{Value as Raw, ValueKind};
use serde_json::Value;

use super::Sources;
use super::layers::FILE_VARIABLE;
use super::origin::Source;
use super::pair_env;
use super::path::{Path, Segment, is_plain};
use super::report::Report;
use super::schema::{Schema, Table};
use super::suggest;

const PREFIX: &str = "LASTMILE_";

/// More entries than this in a list of tables are for a file.
const MAX_INDEX: usize = 999;

/// Variables of older deployments, our own, then flags, each with the path and the value that it sets. The rest is reported.
pub fn read(sources: &Sources, schema: &Schema, tree: &Value, report: &mut Report) -> Vec<(Path, Raw)> {
    let mut overrides = pair_env::read(sources, schema, tree, report);
    let mut finder = Finder { schema, tree, report };
    let mut variables: Vec<_> = sources.env.iter().collect();
    variables.sort();
    for (name, value) in variables {
        if let Some(words) = name.strip_prefix(PREFIX)
            && name != FILE_VARIABLE
        {
            overrides.extend(finder.variable(name, words, value));
        }
    }
    for flag in &sources.set {
        overrides.extend(finder.flag(flag));
    }
    overrides
}

struct Finder<'a> {
    schema: &'a Schema,
    tree: &'a Value,
    report: &'a mut Report,
}

impl Finder<'_> {
    fn variable(&mut self, name: &str, words: &str, value: &str) -> Option<(Path, Raw)> {
        let words: Vec<String> = words.split("__").map(str::to_lowercase).collect();
        let source = Source::Variable(name.to_owned());
        self.find(&words, source, value, Path::variable, name)
    }

    fn flag(&mut self, flag: &str) -> Option<(Path, Raw)> {
        let Some((path, value)) = flag.split_once('=') else {
            // Not shown in full: it may hold a secret.
            let line = "flag --set: must be a path, \"=\" and a value, like --set limits.max_connections=1000";
            self.report.mistake(Path::root(), line.to_owned());
            return None;
        };
        let path = path.trim();
        let words: Vec<String> = path.replace('[', ".").replace(']', "").split('.').map(str::to_owned).collect();
        let source = Source::Flag(path.to_owned());
        self.find(&words, source, value, Path::to_string, &format!("flag --set {path}"))
    }

    fn find(
        &mut self,
        words: &[String],
        source: Source,
        value: &str,
        spell: impl Fn(&Path) -> String,
        name: &str,
    ) -> Option<(Path, Raw)> {
        let written = Path::from_words(words.iter().map(String::as_str));
        let Some((path, schema)) = resolve(self.schema, self.tree, words) else {
            self.report.origins.overridden(written.clone(), source);
            let meant = suggest::setting(self.schema, self.tree, &written);
            let hint = meant.as_ref().map(|meant| format!("; did you mean {}?", spell(meant))).unwrap_or_default();
            self.report.mistake(meant.unwrap_or(written), format!("{name}: no such setting{hint}"));
            return None;
        };
        if !schema.is_leaf() {
            let line = format!("{name}: this is {}; its parts are set one by one", schema.expected());
            self.report.mistake(path, line);
            return None;
        }
        self.report.origins.overridden(path.clone(), source);
        Some((path, typed(schema, value)))
    }
}

/// The setting that the words name: case does not count, nor does `-` against `_`; names in use come first.
pub fn resolve<'a>(schema: &'a Schema, tree: &Value, words: &[String]) -> Option<(Path, &'a Schema)> {
    let (mut schema, mut place, mut path) = (schema, Some(tree), Path::root());
    for word in words {
        let segment;
        (schema, segment) = match (&schema.table, &schema.list) {
            (Some(Table::Fields(fields)), _) => {
                let (key, field) = fields.iter().find(|(key, _)| same(key, word))?;
                (field, Segment::Key(key.clone()))
            }
            (Some(Table::Named(content)), _) => {
                let names = place.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
                let name = names.into_iter().find(|name| same(name, word)).unwrap_or(word);
                (&**content, Segment::Key(name.clone()))
            }
            (None, Some(item)) if !schema.is_leaf() => {
                let index = word.parse().ok().filter(|index| *index <= MAX_INDEX)?;
                (&**item, Segment::Index(index))
            }
            _ => return None,
        };
        place = place.and_then(|place| match &segment {
            Segment::Key(key) => place.get(key),
            Segment::Index(index) => place.get(index),
        });
        if matches!(&segment, Segment::Key(key) if !is_plain(key)) {
            return None;
        }
        path = path.child(segment);
    }
    Some((path, schema))
}

fn same(key: &str, word: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    plain(key) == plain(word)
}

/// What does not fit stays a string, which is then reported with its place.
pub fn typed(schema: &Schema, value: &str) -> Raw {
    let list = schema.list.is_some() && (!schema.string || value.contains(','));
    let kind = if list {
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        ValueKind::Array(items.map(Raw::from).collect())
    } else if schema.string {
        ValueKind::String(value.to_owned())
    } else if let (true, Ok(number)) = (schema.integer, value.trim().parse::<u64>()) {
        ValueKind::U64(number)
    } else if let (true, Ok(boolean)) = (schema.boolean, value.trim().parse::<bool>()) {
        ValueKind::Boolean(boolean)
    } else {
        ValueKind::String(value.to_owned())
    };
    Raw::new(None, kind)
}
