//! Loading of settings: sources, precedence, checks.

mod mistakes;
mod pair_env;
mod sources;
mod values;

use std::path::{Path, PathBuf};

use lastmile::config::{ConfigError, Loaded, Sources, explain, load};
use test_support::TempDir;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEH3Yr2hMo60jK89RzfwtjfI4x/Cf7LFz9/eB6oowfBa";

fn load_all(file: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded, ConfigError> {
    let directory = TempDir::new();
    load_in(&directory, file, env, set)
}

fn load_in(directory: &TempDir, file: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded, ConfigError> {
    load(&Sources {
        file: Some(directory.write("lastmile.toml", file)),
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
