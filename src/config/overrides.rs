//! Overrides of settings by environment variables and `--set`.

use config::Value as Raw;
use serde_json::Value;

use super::lookup::{self, typed};
use super::origin::Source;
use super::pair_env;
use super::path::Path;
use super::report::Report;
use super::schema::Schema;
use super::sources::{FILE_VARIABLE, Sources};
use super::suggest;

const PREFIX: &str = "LASTMILE_";

/// Returns each overridden path with its value, weakest first: variables of older deployments, `LASTMILE_*`, flags.
/// Reports names that match no setting.
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
            // The text may hold a secret, so it is not shown.
            let line = "flag --set: must be a path, \"=\" and a value, such as --set limits.max_connections=1000";
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
        let Some((path, schema)) = lookup::find(self.schema, self.tree, words) else {
            self.report.origins.overridden(written.clone(), source);
            let meant = suggest::setting(self.schema, self.tree, &written);
            let hint = meant.as_ref().map(|meant| format!("; did you mean {}?", spell(meant))).unwrap_or_default();
            self.report.mistake(meant.unwrap_or(written), format!("{name}: no such setting{hint}"));
            return None;
        };
        if !schema.is_leaf() {
            let line = format!("{name}: this is {}; set its parts one by one", schema.expected());
            self.report.mistake(path, line);
            return None;
        }
        self.report.origins.overridden(path.clone(), source);
        Some((path, typed(schema, value)))
    }
}
