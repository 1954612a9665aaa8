//! Loading of settings: sources, precedence, checks.

mod mistakes;
mod pair_env;
mod sources;
mod values;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEH3Yr2hMo60jK89RzfwtjfI4x/Cf7LFz9/eB6oowfBa";

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lastmile-config-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load_all(file: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded, ConfigError> {
    let directory = Directory::new();
    load_in(&directory, file, env, set)
}

fn load_in(directory: &Directory, file: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded, ConfigError> {
    load(&Sources {
        file: Some(directory.file("lastmile.toml", file)),
        env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        set: set.iter().map(|flag| flag.to_string()).collect(),
    })
}

fn load_file(file: &str) -> Loaded {
    load_all(file, &[], &[]).unwrap()
}

fn error_of(file: &str, env: &[(&str, &str)], set: &[&str]) -> String {
    load_all(file, env, set).unwrap_err().to_string()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}
