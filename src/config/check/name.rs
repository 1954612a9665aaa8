//! Names that the operator chooses.

use crate::config::path::Path;
use crate::config::report::Report;

const MAX_BYTES: usize = 64;

/// Reports a name that cannot stand in logs, metrics and variables.
pub fn check(name: &str, path: &Path, report: &mut Report) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_BYTES || !name.bytes().all(allowed) {
        report.misplaced(path, format_args!("a name has 1 to {MAX_BYTES} letters, digits, `-`, `_` and `.`"));
    }
}
