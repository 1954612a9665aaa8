//! The shape of the source: which module may use which, and how a file begins and ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may use of the others. Arrows run down only: a module never uses what stands on it.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("protocol", &[]),
    ("broker", &["protocol"]),
    ("geo", &[]),
    ("auth", &["protocol", "broker"]),
    ("engine", &["protocol", "broker"]),
    ("ops", &[]),
    ("cluster", &["protocol", "broker", "auth", "engine", "ops"]),
    ("transport", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster"]),
    ("config", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport"]),
    ("gateway", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport", "config"]),
    ("cli", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport", "config", "gateway"]),
];

const MAX_LINES: usize = 500;

/// Every file of `src`, with its path there and its text.
fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    found
}

/// The module that a file belongs to.
fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names behind `crate::`, also in a list: `use crate::{auth, ops}`.
fn used_modules(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => used.push(word(rest)),
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for c in list.chars() {
                    match c {
                        '}' if depth == 0 => break,
                        ',' if depth == 0 => used.push(word(std::mem::take(&mut item).trim())),
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => item.push(c),
                    }
                }
                used.push(word(item.trim()));
            }
        }
    }
    used.retain(|module| !module.is_empty());
    used
}

#[test]
fn arrows_between_modules_run_down_only() {
    let may_use: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let Some(allowed) = may_use.get(module.as_str()) else {
            wrong.push(format!("src/{}: the module `{module}` has no place in MAY_USE", path.display()));
            continue;
        };
        for used in used_modules(&text) {
            if used != module && may_use.contains_key(used.as_str()) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{}: `{module}` must not use `crate::{used}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_transport_knows_warp() {
    for (path, text) in sources() {
        let knows = text.contains("warp::");
        assert!(!knows || module_of(&path) == "transport", "src/{} uses warp", path.display());
    }
}

#[test]
fn the_protocol_knows_no_clock_no_tokio_and_no_io() {
    for (path, text) in sources() {
        if module_of(&path) == "protocol" {
            for word in ["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime", "Timestamp::now"] {
                assert!(!text.contains(word), "src/{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_first_what_it_owns() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or("");
        let is_the_readme = path == Path::new("lib.rs") && first.starts_with("#![doc = include_str!");
        assert!(first.starts_with("//! ") || is_the_readme, "src/{} begins with {first:?}", path.display());
    }
}

#[test]
fn no_file_is_long() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "src/{} has {lines} lines", path.display());
    }
}

#[test]
fn the_reader_of_paths_sees_lists_too() {
    assert_eq!(used_modules("use crate::{auth, ops::Phase, broker::{a, b}};"), ["auth", "ops", "broker"]);
    assert_eq!(used_modules("use crate::config::Config; // x\nlet a = crate::ops::b();"), ["config", "ops"]);
    assert_eq!(used_modules("//! crate::gateway"), Vec::<String>::new());
}
