//! Finds the setting that a variable or flag names, and converts its text to the setting's type.

use config::{Value as Raw, ValueKind};
use serde_json::Value;

use super::path::{Path, Segment, is_plain};
use super::schema::{Schema, Table};

/// Largest index of a list of tables that a variable or flag can set.
const MAX_INDEX: usize = 999;

/// Returns the setting that `words` name. Case is ignored, `-` equals `_`, and names in `tree` are preferred.
pub fn find<'a>(schema: &'a Schema, tree: &Value, words: &[String]) -> Option<(Path, &'a Schema)> {
    let (mut schema, mut value, mut path) = (schema, Some(tree), Path::root());
    for word in words {
        let segment;
        (schema, segment) = match (&schema.table, &schema.list) {
            (Some(Table::Fields(fields)), _) => {
                let (key, field) = fields.iter().find(|(key, _)| is_same(key, word))?;
                (field, Segment::Key(key.clone()))
            }
            (Some(Table::Named(content)), _) => {
                let names = value.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
                let name = names.into_iter().find(|name| is_same(name, word)).unwrap_or(word);
                (&**content, Segment::Key(name.clone()))
            }
            (None, Some(item)) if !schema.is_leaf() => {
                let index = word.parse().ok().filter(|index| *index <= MAX_INDEX)?;
                (&**item, Segment::Index(index))
            }
            _ => return None,
        };
        value = value.and_then(|value| match &segment {
            Segment::Key(key) => value.get(key),
            Segment::Index(index) => value.get(index),
        });
        if matches!(&segment, Segment::Key(key) if !is_plain(key)) {
            return None;
        }
        path = path.child(segment);
    }
    Some((path, schema))
}

fn is_same(key: &str, word: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    plain(key) == plain(word)
}

/// Converts a text to the type of its setting. A text that does not fit stays a string, and validation reports it.
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
