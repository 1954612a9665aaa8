//! Holds the merged tree against the schema: unknown keys and values of the wrong type are reported and cut out,
//! so that the rest can still be checked.

use serde_json::Value;

use super::path::Path;
use super::report::Report;
use super::schema::{Schema, Table};
use super::suggest;

pub fn prune(tree: &mut Value, schema: &Schema, report: &mut Report) {
    let whole = tree.clone();
    Validation { schema, whole: &whole, report }.keep(tree, schema, &Path::root());
}

struct Validation<'a> {
    schema: &'a Schema,
    whole: &'a Value,
    report: &'a mut Report,
}

impl Validation<'_> {
    /// Whether the value may stay.
    fn keep(&mut self, value: &mut Value, schema: &Schema, path: &Path) -> bool {
        let fits = match value {
            Value::Null => false,
            Value::Bool(_) => schema.boolean,
            Value::Number(number) => schema.integer && number.is_u64(),
            Value::String(_) => schema.string,
            Value::Array(items) => match &schema.list {
                Some(item) => {
                    // Nothing moves up: the places of what stays are still those of the source.
                    let fit: Vec<bool> = items
                        .iter_mut()
                        .enumerate()
                        .map(|(index, value)| self.keep(value, item, &path.index(index)))
                        .collect();
                    items.truncate(fit.iter().position(|fits| !fits).unwrap_or(fit.len()));
                    true
                }
                None => false,
            },
            Value::Object(fields) => match &schema.table {
                Some(table) => {
                    fields.retain(|key, value| self.keep_field(key, value, table, path));
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

    fn keep_field(&mut self, key: &str, value: &mut Value, table: &Table, path: &Path) -> bool {
        let path = path.key(key);
        let schema = match table {
            Table::Named(content) => Some(&**content),
            Table::Fields(fields) => fields.get(key),
        };
        match schema {
            Some(schema) => self.keep(value, schema, &path),
            None => {
                self.report.unknown(&path, suggest::setting(self.schema, self.whole, &path));
                false
            }
        }
    }
}
