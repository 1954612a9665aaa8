//! Rules of form: lengths, and words that no document uses.

use crate::markdown::{Document, documents};

const MAX_DOCUMENT_LINES: usize = 500;
const MAX_README_LINES: usize = 200;
/// In characters, outside of tables and code.
const MAX_LINE_CHARS: usize = 140;
/// A sentence has a noun as its subject.
const REFUSED_WORDS: [&str; 4] = ["whoever", "somebody", "nobody", "anybody"];

fn check(rule: &str, faults_of: impl Fn(&Document) -> Vec<String>) {
    let faults: Vec<_> = documents()
        .iter()
        .flat_map(|document| faults_of(document).into_iter().map(|fault| format!("{}:{fault}", document.path)))
        .collect();
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

#[test]
fn documents_are_short() {
    check("too many lines", |document| {
        let max = if document.path == "README.md" { MAX_README_LINES } else { MAX_DOCUMENT_LINES };
        let count = document.text.lines().count();
        if count > max { vec![format!(" {count}, at most {max}")] } else { Vec::new() }
    });
}

#[test]
fn lines_are_short() {
    check("lines are too long", |document| {
        let lines = document.lines();
        let prose = lines.iter().filter(|line| !line.is_code && !line.text.trim_start().starts_with('|'));
        prose
            .filter(|line| line.text.chars().count() > MAX_LINE_CHARS)
            .map(|line| format!("{}: {} characters", line.number, line.text.chars().count()))
            .collect()
    });
}

#[test]
fn refused_words_are_absent() {
    check("refused words", |document| {
        let mut faults = Vec::new();
        for line in document.lines() {
            let words = line.text.split(|c: char| !c.is_alphanumeric());
            for word in words.filter(|word| REFUSED_WORDS.contains(&word.to_lowercase().as_str())) {
                faults.push(format!("{}: {word}", line.number));
            }
        }
        faults
    });
}
