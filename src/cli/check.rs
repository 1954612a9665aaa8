//! `lastmile check`: is this configuration good, and what does it mean?

use clap::Args;

use super::{ConfigArgs, Failure};
use crate::{config, gateway};

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile check
  lastmile check --config /etc/lastmile.toml --channel prices.btc
  lastmile check --publisher market-data

Exit code 0: the gateway would start. 64: it would not; every mistake is named.")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print what holds for this channel
    #[arg(long)]
    channel: Option<String>,
    /// Print what this publisher may do, by its name or fingerprint
    #[arg(long)]
    publisher: Option<String>,
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let loaded = self.config.load()?;
        gateway::check(&loaded.config).map_err(|error| Failure::usage(error.to_string()))?;
        for warning in &loaded.warnings {
            eprintln!("lastmile: warning: {warning}");
        }
        print!("{}", config::explain(&loaded.config, self.channel.as_deref(), self.publisher.as_deref()));
        Ok(())
    }
}
