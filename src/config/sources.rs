//! The places that settings are read from.

use std::path::PathBuf;

/// The variable that names the configuration file.
pub const FILE_VARIABLE: &str = "LASTMILE_CONFIG";

/// Sources of settings, weakest first. No `Debug`: variables hold secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`; otherwise `LASTMILE_CONFIG`, otherwise `config/lastmile.toml` if it exists.
    pub file: Option<PathBuf>,
    /// The complete environment; only `LASTMILE_…` and `PAIR_…` are read.
    pub env: Vec<(String, String)>,
    /// `--set`: `path=value`.
    pub set: Vec<String>,
}
