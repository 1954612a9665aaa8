//! Settings that the documents know and this version does not read yet, so that they are not called unknown.

use super::path::Path;
use super::report::Report;

#[derive(Clone, Copy)]
enum Meanwhile {
    /// The feature is off, so that its limits harm nobody.
    Ignored,
    /// Running without it would not be what the operator asked for.
    Refused,
}

const LATER: [(&str, Meanwhile); 4] = [
    ("engine.path", Meanwhile::Refused),
    ("engine.url", Meanwhile::Refused),
    ("issuers[].jwks_url", Meanwhile::Refused),
    ("issuers[].discovery", Meanwhile::Refused),
];

/// Reports a setting of a later version; `false` for any other.
pub fn report(path: &Path, report: &mut Report) -> bool {
    let pattern = path.pattern();
    let known = LATER.iter().find(|(name, _)| {
        pattern.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    });
    match known {
        Some((_, Meanwhile::Ignored)) => report.warn(path, "not in this version, ignored"),
        Some((_, Meanwhile::Refused)) => report.misplaced(path, "not in this version; leave it out"),
        None => {}
    }
    known.is_some()
}
