//! The revocations file: a JSON array, or one JSON object per line.

use crate::auth::Revocation;
use crate::auth::revocation::WrittenRevocation;
use crate::config::files::{Files, read_text};
use crate::config::path::Path;
use crate::config::report::Report;

pub fn check(file: Option<String>, report: &mut Report, files: &mut Files) -> Vec<Revocation> {
    let Some(file) = file else { return Vec::new() };
    read_text(&files.locate(&file)).and_then(|text| read(&text)).unwrap_or_else(|reason| {
        let path = Path::of("revocations_file");
        report.wrong(&path, file, format_args!("must be a file of revocations, one JSON object per line: {reason}"));
        Vec::new()
    })
}

fn read(text: &str) -> Result<Vec<Revocation>, String> {
    let written: Vec<WrittenRevocation> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let read = |(number, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1));
        lines.map(read).collect::<Result<_, _>>()?
    };
    let numbered = written.into_iter().enumerate();
    // `before` is required: a default of now would change at every reload.
    let read = |(index, entry): (usize, WrittenRevocation)| {
        entry.read(None).map_err(|reason| format!("entry {}: {reason}", index + 1))
    };
    numbered.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let one = r#"{"issuer":"i","subject":"a","before":1}"#;
        for text in [format!("[{one},{one}]"), format!("\n{one}\n\n{one}\n")] {
            assert_eq!(read(&text).unwrap().len(), 2);
        }
        assert_eq!(read(" \n").unwrap(), []);
        for (text, part) in [
            (format!("{one}\nnonsense"), "line 2"),
            (format!("{one}\n{{\"issuer\":\"i\",\"subject\":\"a\"}}"), "entry 2: `before` (seconds"),
            (r#"[{"issuer":"i","before":1}]"#.to_owned(), "entry 1: exactly one of `subject`"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
