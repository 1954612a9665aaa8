//! Files, environment and flags in; the checked [`Config`] out.
//!
//! Two stages: [`settings`] holds what people write, [`check`] makes the checked values of it. Between them the
//! sources are put over one another and held against the schema, so that each mistake is reported with its key, its
//! value, its source and what would be right.

mod check;
mod checked;
mod explain;
mod files;
mod layers;
mod origin;
mod overrides;
mod pair_env;
mod path;
pub mod pushed_policy;
mod report;
mod schema;
mod settings;
pub mod settings_table;
mod suggest;
#[cfg(test)]
mod tests;
pub mod validate_schema;

use std::path::PathBuf;

pub use checked::{Config, DrainConfig, Egress, EngineConfig, Limits, PolicyConfig};
pub use explain::explain;
pub use pushed_policy::{read_keys, read_rules};
pub use report::ConfigError;
pub use settings_table::{Setting, settings_table};

/// Where settings come from, weakest first. No `Debug`: variables hold secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`; otherwise `LASTMILE_CONFIG`, otherwise `config/lastmile.toml` if it is there.
    pub file: Option<PathBuf>,
    /// The whole environment; only `LASTMILE_…` and `PAIR_…` are looked at.
    pub env: Vec<(String, String)>,
    /// `--set`: `path=value`.
    pub set: Vec<String>,
}

/// A configuration that a gateway can run with.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The configuration file and the files that it names: a change of one of them calls for a reload.
    pub watched: Vec<PathBuf>,
}

/// Reads and checks everything; nothing is bound or started.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let schema = schema::Schema::of_settings();
    let layers::Layers { mut tree, mut report, file } = layers::Layers::read(sources, &schema)?;
    validate_schema::prune(&mut tree, &schema, &mut report);
    let settings = serde_path_to_error::deserialize(tree).map_err(|error| error.to_string())?;
    let mut files = files::Files::new(file.as_deref());
    let config = check::check(settings, &mut report, &mut files);
    let warnings = report.finish()?;
    Ok(Loaded { config, warnings, watched: files.watched })
}
