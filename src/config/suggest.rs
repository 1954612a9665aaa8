//! Suggestions for misspelled settings and words ("did you mean").

use serde_json::Value;

use super::path::{Path, Segment};
use super::schema::{NAME, Schema, Table};

/// Returns the setting or table that was probably meant.
///
/// `tree` holds the names in use. Levels are joined for the comparison, so `LASTMILE_LIMITS_MAX_CONNECTIONS` finds
/// `limits.max_connections`. A correct last key on a wrong level is found too.
pub fn setting(schema: &Schema, tree: &Value, written: &Path) -> Option<Path> {
    let mut candidates = Vec::new();
    collect(schema, Some(tree), written, &Path::root(), &mut candidates);
    let flat = flatten(written);
    let near = |candidate: &Path| {
        let distance = strsim::damerau_levenshtein(&flat, &flatten(candidate));
        let same_word = candidate.last_key() == written.last_key();
        (same_word || distance <= max_distance(&flat)).then_some(distance)
    };
    candidates
        .into_iter()
        .filter(|candidate| candidate != written)
        .filter_map(|candidate| Some((near(&candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the word of a list that was probably meant.
pub fn word<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    words
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written, &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= max_distance(&written))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Returns `must be one of …`, with a suggestion.
pub fn one_of(written: &str, words: &[&str]) -> String {
    let list = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    match word(written, words.iter().copied()) {
        Some(meant) => format!("must be one of {list}; did you mean {meant:?}?"),
        None => format!("must be one of {list}"),
    }
}

/// Largest edit distance of a suggestion.
fn max_distance(written: &str) -> usize {
    (written.chars().count() / 4).clamp(1, 4)
}

fn flatten(path: &Path) -> String {
    let words: Vec<String> = path
        .segments()
        .iter()
        .map(|segment| match segment {
            Segment::Key(key) => key.to_lowercase().replace(['-', ' '], "_"),
            Segment::Index(index) => index.to_string(),
        })
        .collect();
    words.join("_")
}

/// Collects every setting and table, with the names and indexes in use or, at the same depth, those of `written`.
fn collect(schema: &Schema, tree: Option<&Value>, written: &Path, path: &Path, candidates: &mut Vec<Path>) {
    if !path.segments().is_empty() {
        candidates.push(path.clone());
    }
    let depth = path.segments().len();
    let written_segment = written.segments().get(depth);
    if let Some(item) = &schema.list
        && !schema.is_leaf()
    {
        let index = if let Some(Segment::Index(index)) = written_segment { *index } else { 0 };
        collect(item, tree.and_then(|tree| tree.get(index)), written, &path.index(index), candidates);
    }
    match &schema.table {
        Some(Table::Fields(fields)) => {
            for (key, field) in fields {
                collect(field, tree.and_then(|tree| tree.get(key)), written, &path.key(key), candidates);
            }
        }
        Some(Table::Named(content)) => {
            let names = tree.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str());
            let mut names: Vec<&str> = names.collect();
            // A new name is a candidate only as a prefix of a longer path.
            if let Some(Segment::Key(name)) = written_segment
                && written.segments().len() > depth + 1
            {
                names.push(name);
            } else if names.is_empty() {
                names.push(NAME);
            }
            for name in names {
                collect(content, tree.and_then(|tree| tree.get(name)), written, &path.key(name), candidates);
            }
        }
        None => {}
    }
}
