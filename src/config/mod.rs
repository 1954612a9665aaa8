//! Reads settings from file, environment and flags, and checks them: the result is a [`Config`].
//!
//! There are two stages. [`settings`] holds the settings as written; [`check`] converts them to checked values. In
//! between, the sources are merged and validated against the schema. So each mistake is reported with its key, value,
//! source and a valid example.

mod check;
mod checked;
mod explain;
mod files;
mod layers;
mod lookup;
mod origin;
mod overrides;
mod pair_env;
mod path;
pub mod pushed_policy;
mod report;
mod schema;
mod settings;
pub mod settings_table;
mod sources;
mod suggest;
pub mod validate_schema;

use std::path::PathBuf;

pub use checked::{Config, DrainConfig, Egress, EngineConfig, Limits, PolicyConfig};
pub use explain::explain;
pub use pushed_policy::{read_keys, read_rules};
pub use report::ConfigError;
pub use settings_table::{Setting, settings_table};
pub use sources::Sources;

/// A configuration that a gateway can run with.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Questionable settings, for the operator.
    pub warnings: Vec<String>,
    /// The configuration file and the files that it names. A change of one of them triggers a reload.
    pub watched: Vec<PathBuf>,
}

/// Reads and checks all settings. Binds and starts nothing.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let schema = schema::Schema::of_settings();
    let layers::Layers { mut tree, mut report, file } = layers::Layers::read(sources, &schema)?;
    validate_schema::prune(&mut tree, &schema, &mut report);
    let settings = serde_path_to_error::deserialize(tree).map_err(|error| error.to_string())?;
    let mut files = files::Files::new(file.as_deref());
    let config = check::check(settings, &mut report, &mut files);
    for file in &files.watched {
        if files::is_world_writable(file) {
            report.warn_line(format!(
                "{}: every user of this machine may change the file or replace it, and so the policy",
                file.display()
            ));
        }
    }
    if let Some(file) = file.as_deref().filter(|file| report.origins.sets_secret() && files::is_world_readable(file)) {
        report.warn_line(format!("{}: holds secrets; {}", file.display(), files::READABLE_SECRET));
    }
    let warnings = report.finish()?;
    Ok(Loaded { config, warnings, watched: files.watched })
}
