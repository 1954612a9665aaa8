//! Names that the operator chooses.

use crate::broker::is_claim_name;
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

/// Checks the name of a claim: a pointer escapes `~` and `/`.
pub fn check_claim(claim: &str, path: &Path, report: &mut Report) {
    if !is_claim_name(claim) {
        let right = "must be the name of a claim, or a JSON Pointer such as \"/realm_access/roles\"";
        report.wrong(path, claim, right);
    }
}
