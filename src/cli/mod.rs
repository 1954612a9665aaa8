//! The command line: parse, run, exit code.

mod check;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded, Sources};

/// A bad setting or argument (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// A publisher-authenticated gateway: live data leaves a private network, nothing connects inward.
#[derive(Parser)]
#[command(name = "lastmile", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Serve),
    /// Check a configuration and print what it means.
    Check(check::Check),
}

/// Where the configuration comes from.
#[derive(Args)]
struct ConfigArgs {
    /// The configuration file [default: config/lastmile.toml if there is one]
    #[arg(long, value_name = "FILE", env = "LASTMILE_CONFIG")]
    config: Option<PathBuf>,
    /// Change one setting, over the file and the environment; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Loaded, Failure> {
        let sources = Sources {
            file: self.config.clone(),
            // A variable that is not text cannot be a setting.
            env: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            set: self.set.clone(),
        };
        config::load(&sources).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Why a command ends without success: what to print, and the exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: EXIT_USAGE }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }
}

/// Runs the command that the arguments ask for.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing to a closed pipe is nobody's problem.
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            eprintln!("lastmile: {message}");
            code.into()
        }
    }
}
