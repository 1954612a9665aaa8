//! `lastmile nodes`: lists the nodes that share the Redis of a configuration.

use clap::Args;
use serde_json::Value;

use super::config_args::ConfigArgs;
use super::failure::Failure;
use super::output;
use super::runtime::runtime;
use crate::config::EngineConfig;
use crate::engine::redis::nodes;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile nodes
  lastmile nodes --config /etc/lastmile.toml

Prints one JSON line for each node with a heartbeat within the last ten seconds. Exit code 1: Redis does not respond.")]
pub struct Nodes {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Nodes {
    pub fn run(self) -> Result<(), Failure> {
        let EngineConfig::Redis(redis) = self.config.load()?.config.engine else {
            return Err(Failure::usage("engine.kind is not \"redis\": there are no other nodes"));
        };
        let found = runtime()?.block_on(nodes(&redis)).map_err(|error| Failure::failed(error.to_string()))?;
        for (node, state) in found {
            let mut state: Value = serde_json::from_slice(&state).unwrap_or_default();
            state["node"] = node.into();
            output::json_line(&state.to_string())?;
        }
        Ok(())
    }
}
