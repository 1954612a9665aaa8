//! The checklist of docs/security.md names tests that exist.

use crate::markdown::{code_spans, read};

#[test]
fn checklist_names_existing_tests() {
    let checklist = read("docs/security.md");
    let rows: Vec<_> =
        checklist.lines().filter(|line| line.contains("](../tests/") || line.contains("](../src/")).collect();
    assert!(rows.len() > 60, "rows are missing: {}", rows.len());
    let (mut count, mut faults) = (0, Vec::new());
    for row in rows {
        for group in row.split("](../").skip(1) {
            let (path, names) = group.split_once("): ").unwrap_or_else(|| panic!("not `[file](link): tests`: {row}"));
            // The names of the next file begin with its link.
            let names = names.split("; [").next().unwrap();
            let code = read(path);
            for name in code_spans(names) {
                count += 1;
                if !is_test(&code, name) {
                    faults.push(format!("{path}: {name}"));
                }
            }
        }
    }
    assert!(count > 200, "tests are missing: {count}");
    assert!(faults.is_empty(), "no such tests:\n{}", faults.join("\n"));
}

fn is_test(code: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    let lines: Vec<_> = code.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.contains(&function)) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}
