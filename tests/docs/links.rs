//! Links and file names in the documents exist.

use std::collections::HashMap;

use crate::markdown::{code_spans, documents, files, read, root};

/// Kinds of files that documents name only if the repository has them.
const SOURCE_EXTENSIONS: [&str; 6] = [".rs", ".lua", ".py", ".mjs", ".ts", ".md"];

/// Part of a path that stands for many names.
const PLACEHOLDERS: [&str; 2] = ["NAME", "PART"];

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let anchors: HashMap<_, _> =
        documents.iter().map(|document| (root().join(&document.path), document.anchors())).collect();
    let mut faults = Vec::new();
    for document in &documents {
        for line in document.lines().iter().filter(|line| !line.is_code) {
            for target in line.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if target.starts_with("http:") || target.starts_with("https:") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').map_or((target, None), |(file, name)| (file, Some(name)));
                let path = match file {
                    "" => root().join(&document.path),
                    file => document.folder().join(file),
                };
                // Without the `..` of the link.
                let path = path.canonicalize().unwrap_or(path);
                let known = anchors.get(&path);
                let has_anchor =
                    anchor.zip(known).is_none_or(|(anchor, known)| known.iter().any(|name| name == anchor));
                if !path.exists() || !has_anchor {
                    faults.push(format!("{}:{}: {target}", document.path, line.number));
                }
            }
        }
    }
    assert!(faults.is_empty(), "links lead nowhere:\n{}", faults.join("\n"));
}

#[test]
fn index_links_every_document() {
    let index = read("docs/README.md");
    for document in documents() {
        let Some(path) = document.path.strip_prefix("docs/") else { continue };
        assert!(path == "README.md" || index.contains(&format!("]({path}")), "docs/README.md does not link {path}");
    }
}

/// A document may leave out the first folders of a path.
#[test]
fn named_source_files_exist() {
    let files: Vec<_> = files().into_iter().map(|path| format!("/{path}")).collect();
    let mut faults = Vec::new();
    for document in documents() {
        for line in document.lines().iter().filter(|line| !line.is_code) {
            for name in code_spans(line.text).filter(|name| is_source_path(name)) {
                let suffix = format!("/{name}");
                if !files.iter().any(|file| file.ends_with(&suffix)) && !document.folder().join(name).exists() {
                    faults.push(format!("{}:{}: {name}", document.path, line.number));
                }
            }
        }
    }
    assert!(faults.is_empty(), "no such files:\n{}", faults.join("\n"));
}

fn is_source_path(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    name.contains('/')
        && name.chars().all(is_plain)
        && SOURCE_EXTENSIONS.iter().any(|extension| name.ends_with(extension))
        && !PLACEHOLDERS.iter().any(|placeholder| name.contains(placeholder))
}
