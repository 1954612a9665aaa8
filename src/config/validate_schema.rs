//! Validates the merged tree against the schema: reports and removes unknown keys and values of the wrong type, so that
//! the rest can still be checked.

use serde_json::Value;

use super::path::Path;
use super::report::Report;
use super::schema::{Schema, Table};
use super::suggest;

pub fn prune(tree: &mut Value, schema: &Schema, report: &mut Report) {
    let original = tree.clone();
    Validation { schema, original: &original, report }.validate(tree, schema, &Path::root());
}

struct Validation<'a> {
    schema: &'a Schema,
    original: &'a Value,
    report: &'a mut Report,
}

impl Validation<'_> {
    /// Returns whether the value may stay.
    fn validate(&mut self, value: &mut Value, schema: &Schema, path: &Path) -> bool {
        let fits = match value {
            Value::Null => false,
            Value::Bool(_) => schema.boolean,
            Value::Number(number) => schema.integer && number.is_u64(),
            Value::String(_) => schema.string,
            Value::Array(items) => match &schema.list {
                Some(item) => {
                    // The list ends before the first wrong item, because indexes must stay those of the source.
                    let fit: Vec<bool> = items
                        .iter_mut()
                        .enumerate()
                        .map(|(index, value)| self.validate(value, item, &path.index(index)))
                        .collect();
                    items.truncate(fit.iter().position(|fits| !fits).unwrap_or(fit.len()));
                    true
                }
                None => false,
            },
            Value::Object(fields) => match &schema.table {
                Some(table) => {
                    fields.retain(|key, value| self.validate_field(key, value, table, path));
                    true
                }
                None => false,
            },
        };
        if !fits {
            self.report.wrong(path, value.clone(), format_args!("must be {}", schema.expected()));
        }
        fits
    }

    fn validate_field(&mut self, key: &str, value: &mut Value, table: &Table, path: &Path) -> bool {
        let path = path.key(key);
        let schema = match table {
            Table::Named(content) => Some(&**content),
            Table::Fields(fields) => fields.get(key),
        };
        match schema {
            Some(schema) => self.validate(value, schema, &path),
            None => {
                self.report.unknown(&path, suggest::setting(self.schema, self.original, &path));
                false
            }
        }
    }
}
