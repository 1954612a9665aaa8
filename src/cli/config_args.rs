//! The arguments that name a configuration.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::input;
use crate::config::{self, Loaded, Sources};

/// Variables of the commands, which are no settings of the gateway.
const COMMAND_VARIABLES: [&str; 1] = [input::TOKEN_VARIABLE];

#[derive(Args)]
pub struct ConfigArgs {
    /// The configuration file [default: config/lastmile.toml if it exists]
    #[arg(long, value_name = "FILE", env = "LASTMILE_CONFIG")]
    config: Option<PathBuf>,
    /// Override one setting of the file and the environment; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    pub fn load(&self) -> Result<Loaded, Failure> {
        let sources = Sources {
            file: self.config.clone(),
            // Settings are text, so other variables are skipped.
            env: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .filter(|(name, _)| !COMMAND_VARIABLES.contains(&name.as_str()))
                .collect(),
            set: self.set.clone(),
        };
        config::load(&sources).map_err(|error| Failure::usage(error.to_string()))
    }
}
