//! Reads the Markdown files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold other people's documents, or none.
const SKIPPED_FOLDERS: [&str; 6] = ["target", "node_modules", ".git", ".venv", "dist", "__pycache__"];

/// One Markdown file.
pub struct Document {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    pub text: String,
}

/// A line, and whether it stands in a fenced block.
pub struct Line<'a> {
    pub number: usize,
    pub text: &'a str,
    pub is_code: bool,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Markdown file of the repository.
pub fn documents() -> Vec<Document> {
    let paths: Vec<_> = files().into_iter().filter(|path| path.ends_with(".md")).collect();
    assert!(paths.len() > 15, "documents are missing: {paths:?}");
    paths.into_iter().map(|path| Document { text: read(&path), path }).collect()
}

/// Every file of the repository, relative to its root.
pub fn files() -> Vec<String> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    paths.sort();
    paths
}

fn collect(folder: &Path, paths: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        if path.is_dir() && !path.is_symlink() {
            if !SKIPPED_FOLDERS.contains(&name) {
                collect(&path, paths);
            }
        } else {
            paths.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
        }
    }
}

impl Document {
    /// The folder of the file, to which its links are relative.
    pub fn folder(&self) -> PathBuf {
        root().join(&self.path).parent().unwrap().to_owned()
    }

    pub fn lines(&self) -> Vec<Line<'_>> {
        let mut is_code = false;
        let lines = self.text.lines().enumerate().map(|(index, text)| {
            let is_fence = text.trim_start().starts_with("```");
            let line = Line { number: index + 1, text, is_code: is_code || is_fence };
            is_code ^= is_fence;
            line
        });
        lines.collect()
    }

    /// The fenced blocks of a language, without the indentation of their list.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        blocks(&self.text, language)
    }

    /// The names by which links reach the headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for line in self.lines().iter().filter(|line| !line.is_code && line.text.starts_with('#')) {
            let anchor = slug(line.text.trim_start_matches('#').trim());
            let earlier = anchors.iter().filter(|known| **known == anchor).count();
            anchors.push(if earlier == 0 { anchor } else { format!("{anchor}-{earlier}") });
        }
        anchors
    }
}

pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == fence {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            let block: Vec<_> = block.map(|line| line.get(indent..).unwrap_or("")).collect();
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// Inline code outside of fenced blocks.
pub fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn slug(heading: &str) -> String {
    // A link's text counts, its target does not.
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let kept: String = text.to_lowercase().chars().filter(is_kept).collect();
    kept.replace(' ', "-")
}
