//! The command line: parse, run, exit code.

mod check;
mod demo;
mod healthcheck;
mod input;
mod keygen;
mod nodes;
mod output;
mod pair;
mod password;
mod publish;
mod remote;
mod serve;
mod signals;
mod subscribe;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded, Sources};

/// A bad setting or argument (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Variables of the commands, which are no settings of the gateway.
const COMMAND_VARIABLES: [&str; 1] = [input::TOKEN_VARIABLE];

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
    /// Try it: a gateway, a publisher, a subscriber and a page, all on this machine.
    Demo(demo::Demo),
    /// Make a key for a publisher or for tokens.
    Keygen(keygen::Keygen),
    /// Hash the password of a publisher that cannot sign.
    Password(password::Password),
    /// Publish to a channel.
    Publish(publish::Publish),
    /// Listen to channels.
    Subscribe(subscribe::Subscribe),
    /// Connect two terminals through a room.
    Pair(pair::Pair),
    /// Make a token for a subscriber.
    Token(token::Token),
    /// Check a configuration and print what it means.
    Check(check::Check),
    /// List the gateways that share a Redis.
    Nodes(nodes::Nodes),
    /// Ask a gateway whether it is ready.
    Healthcheck(healthcheck::Healthcheck),
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
                .filter(|(name, _)| !COMMAND_VARIABLES.contains(&name.as_str()))
                .collect(),
            set: self.set.clone(),
        };
        config::load(&sources).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Why a command ends early: what to print, and the exit code.
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

    /// Nobody reads any more what the command prints, as in `lastmile subscribe … | head`.
    fn unread() -> Self {
        Self { message: String::new(), code: 0 }
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
        Command::Demo(demo) => demo.run(),
        Command::Keygen(keygen) => keygen.run(),
        Command::Password(password) => password.run(),
        Command::Publish(publish) => publish.run(),
        Command::Subscribe(subscribe) => subscribe.run(),
        Command::Pair(pair) => pair.run(),
        Command::Token(token) => token.run(),
        Command::Check(check) => check.run(),
        Command::Nodes(nodes) => nodes.run(),
        Command::Healthcheck(healthcheck) => healthcheck.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                output::note(&message);
            }
            code.into()
        }
    }
}

/// A runtime with a thread for every core.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("cannot start: {error}")))
}
