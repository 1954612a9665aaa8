//! Settings that the documents know and this version does not read yet, so that they are not called unknown.

use super::path::Path;
use super::report::Report;

/// Running without one of these would not be what the operator asked for.
const LATER: [&str; 1] = ["engine.url"];

/// Reports a setting of a later version; `false` for any other.
pub fn report(path: &Path, report: &mut Report) -> bool {
    let pattern = path.pattern();
    let is_known = LATER
        .iter()
        .any(|name| pattern.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])));
    if is_known {
        report.misplaced(path, "not in this version; leave it out");
    }
    is_known
}
