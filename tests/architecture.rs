//! Structure of the source: allowed imports, no circles, refused words, file sizes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The floors of `src`, lowest first, and the modules that each may use. An import that is not listed fails.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("protocol", &[]),
    ("ops", &[]),
    ("geo", &[]),
    ("broker", &["protocol", "ops"]),
    ("auth", &["protocol", "ops", "broker"]),
    ("engine", &["protocol", "ops", "broker"]),
    ("cluster", &["protocol", "broker", "auth", "engine", "ops"]),
    ("transport", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster"]),
    ("config", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport"]),
    ("gateway", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport", "config"]),
    ("cli", &["protocol", "broker", "auth", "engine", "ops", "geo", "cluster", "transport", "config", "gateway"]),
];

/// Words that no name and no comment of `src` and `tests` uses: a noun says more.
const REFUSED_WORDS: [&str; 4] = ["whoever", "somebody", "nobody", "anybody"];

/// File names that named no subject; see the glossary of `src/README.md`.
const REFUSED_FILES: [&str; 12] = [
    "told",
    "carried",
    "watched",
    "elsewhere",
    "whereabouts",
    "strand",
    "guest",
    "openers",
    "words",
    "errands",
    "canary",
    "front",
];

/// Constants that named neither their subject nor their kind.
const REFUSED_CONSTANTS: [&str; 10] =
    ["PATIENCE", "OVERHEAD", "AT_ONCE", "LEASE", "PRESENT", "SHARDS", "EMPTY", "LATE", "GOOD", "QUIET"];

const MAX_LINES: usize = 500;

type ModulePath = Vec<String>;

/// A source file, reduced to the paths that it names.
#[derive(Default)]
struct SourceFile {
    module: ModulePath,
    /// Names that the file can use without a path, by `use`, with the path that each stands for.
    imports: HashMap<String, ModulePath>,
    /// Names that the file offers to others by `pub use`.
    reexports: HashMap<String, ModulePath>,
    /// Paths of at least two segments in expressions, types and patterns.
    paths: Vec<ModulePath>,
}

impl SourceFile {
    fn parse(file: &Path, text: &str) -> Self {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{}: {error}", file.display()));
        let mut module: ModulePath =
            file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        let mut source = Self { module, ..Self::default() };
        source.visit_file(&syntax);
        source
    }

    /// The absolute path of what this file calls `path`; `None` for other crates and local names.
    fn resolve(&self, path: &[String], modules: &BTreeMap<ModulePath, SourceFile>) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        let mut base = self.module.clone();
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" => return Some([base, rest.to_vec()].concat()),
            "super" => {
                let supers = path.iter().take_while(|segment| *segment == "super").count();
                base.truncate(base.len().saturating_sub(supers));
                return Some([base, path[supers..].to_vec()].concat());
            }
            _ => {}
        }
        if let Some(import) = self.imports.get(first).filter(|import| import.first() != Some(first)) {
            return Some([self.resolve(import, modules)?, rest.to_vec()].concat());
        }
        base.push(first.clone());
        modules.contains_key(&base).then(|| [base, rest.to_vec()].concat())
    }
}

impl<'ast> Visit<'ast> for SourceFile {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        (if is_reexport { &mut self.reexports } else { &mut self.imports }).extend(leaves);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: ModulePath = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.paths.push(segments);
        }
        visit::visit_path(self, path);
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    let is_test = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    };
    attributes.iter().any(is_test)
}

/// The names that a `use` tree brings, each with its path.
fn flatten(tree: &syn::UseTree, prefix: &mut ModulePath, leaves: &mut Vec<(String, ModulePath)>) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, leaves);
            prefix.pop();
        }
        syn::UseTree::Name(name) if name.ident == "self" => {
            leaves.push((prefix.last().cloned().unwrap_or_default(), prefix.clone()));
        }
        syn::UseTree::Name(name) => {
            leaves.push((name.ident.to_string(), [prefix.clone(), vec![name.ident.to_string()]].concat()));
        }
        syn::UseTree::Rename(rename) => {
            leaves.push((rename.rename.to_string(), [prefix.clone(), vec![rename.ident.to_string()]].concat()));
        }
        syn::UseTree::Glob(_) => leaves.push((format!("{}::*", prefix.join("::")), prefix.clone())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| flatten(item, prefix, leaves)),
    }
}

/// Every file below a folder of the repository, with its path there and its text.
fn files(folder: &str) -> BTreeMap<PathBuf, String> {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    found
}

fn sources() -> BTreeMap<PathBuf, String> {
    files("src")
}

/// Every file of a crate's `src` that is not for tests alone, by its module.
fn modules(folder: &str) -> BTreeMap<ModulePath, SourceFile> {
    let is_test = |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let read = files(folder).into_iter().filter(|(path, _)| !is_test(path) && path != Path::new("main.rs"));
    let parsed = read.map(|(path, text)| SourceFile::parse(&path, &text));
    parsed.map(|source| (source.module.clone(), source)).collect()
}

/// The file that defines what an absolute path names; a re-export counts as the file that it leads to.
fn definition(path: &[String], modules: &BTreeMap<ModulePath, SourceFile>) -> ModulePath {
    for length in (0..=path.len()).rev() {
        let Some(source) = modules.get(&path[..length]) else { continue };
        let target = path.get(length).and_then(|name| source.reexports.get(name));
        return match target.and_then(|target| source.resolve(target, modules)) {
            Some(target) => definition(&[target, path[length + 1..].to_vec()].concat(), modules),
            None => source.module.clone(),
        };
    }
    Vec::new()
}

/// The files that each file uses. The root module counts as no file: it only declares the others.
fn imports(modules: &BTreeMap<ModulePath, SourceFile>) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut edges = BTreeMap::new();
    for source in modules.values() {
        // An imported module is used where a path goes on behind its name.
        let is_module = |path: &ModulePath| modules.contains_key(path);
        let imported = source.imports.values().filter_map(|path| source.resolve(path, modules));
        let imported = imported.filter(|path| !is_module(path));
        let named = source.paths.iter().filter_map(|path| source.resolve(path, modules));
        let used = imported.chain(named).map(|path| definition(&path, modules));
        let used = used.filter(|used| !used.is_empty() && *used != source.module).collect::<BTreeSet<_>>();
        edges.insert(source.module.clone(), used);
    }
    edges
}

/// The files that `from` reaches over imports.
fn reachable(from: &ModulePath, edges: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> BTreeSet<ModulePath> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for used in edges.get(module).into_iter().flatten() {
            if seen.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    seen
}

fn circles(folder: &str) -> Vec<String> {
    let edges = imports(&modules(folder));
    let reach: BTreeMap<_, _> = edges.keys().map(|module| (module, reachable(module, &edges))).collect();
    let mut found = Vec::new();
    for (module, used) in &edges {
        let back: Vec<_> =
            used.iter().filter(|used| reach[used].contains(module)).map(|used| used.join("::")).collect();
        if !back.is_empty() {
            found.push(format!("{folder}: {} uses {}, which uses it in turn", module.join("::"), back.join(", ")));
        }
    }
    found
}

#[test]
fn imports_run_down_only() {
    let may_use: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let mut wrong = Vec::new();
    for (module, used) in imports(&modules("src")) {
        let Some(floor) = module.first() else { continue };
        let Some(allowed) = may_use.get(floor.as_str()) else {
            wrong.push(format!("{}: the module `{floor}` has no place in MAY_USE", module.join("::")));
            continue;
        };
        for target in used.iter().filter(|target| target[0] != *floor && !allowed.contains(&target[0].as_str())) {
            wrong.push(format!("{} must not use {}", module.join("::"), target.join("::")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_import_circles() {
    let found = [circles("src"), circles("clients/rust/src")].concat();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn only_transport_uses_warp() {
    for (path, text) in sources() {
        assert!(!text.contains("warp::") || path.starts_with("transport"), "src/{} uses warp", path.display());
    }
}

#[test]
fn protocol_does_no_io() {
    for (path, text) in sources() {
        if path.starts_with("protocol") {
            for word in ["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime", "Timestamp::now"] {
                assert!(!text.contains(word), "src/{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn refused_words_stay_out() {
    for folder in ["src", "tests", "clients/rust", "benches/load/src"] {
        // The two files that list the words.
        let lists = [Path::new("architecture.rs"), Path::new("docs/style.rs")];
        for (path, text) in files(folder).iter().filter(|(path, _)| !lists.contains(&path.as_path())) {
            for (at, line) in text.lines().enumerate() {
                let lower = line.to_lowercase();
                let found = REFUSED_WORDS.iter().find(|word| lower.contains(**word));
                assert!(found.is_none(), "{folder}/{}:{}: {line}", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn names_have_a_subject() {
    for (path, text) in sources() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(!REFUSED_FILES.contains(&name), "src/{} has a refused name", path.display());
        for constant in REFUSED_CONSTANTS {
            assert!(!text.contains(&format!("const {constant}:")), "src/{}: const {constant}", path.display());
        }
    }
}

#[test]
fn files_begin_with_their_subject() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or("");
        let is_the_readme = path == Path::new("lib.rs") && first.starts_with("#![doc = include_str!");
        assert!(first.starts_with("//! ") || is_the_readme, "src/{} begins with {first:?}", path.display());
    }
}

#[test]
fn files_are_short() {
    for folder in ["src", "tests", "clients/rust", "benches/load/src"] {
        for (path, text) in files(folder) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{folder}/{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn circles_are_found() {
    let file = |name: &str, text: &str| SourceFile::parse(Path::new(name), text);
    let parsed = [
        file("a/mod.rs", "pub use b::Thing; mod b; pub mod c;"),
        file("a/b.rs", "use super::c; pub struct Thing(c::Other);"),
        file("a/c.rs", "use crate::a::Thing; #[cfg(test)] mod tests { use crate::d::E; }"),
        file("d.rs", "use std::fmt; fn e() -> crate::a::Thing { unimplemented!() }"),
    ];
    let modules: BTreeMap<_, _> = parsed.into_iter().map(|source| (source.module.clone(), source)).collect();
    let edges = imports(&modules);
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<ModulePath>();
    assert!(reachable(&path("a::b"), &edges).contains(&path("a::b")), "{edges:?}");
    assert_eq!(edges[&path("d")], BTreeSet::from([path("a::b")]));
    assert!(!reachable(&path("a::b"), &edges).contains(&path("d")));
    assert!(edges[&path("a")].is_empty());
}
