//! The command line: parse, run, exit code.

mod check;
mod config_args;
mod demo;
mod failure;
mod healthcheck;
mod input;
mod keygen;
mod nodes;
mod output;
mod pair;
mod password;
mod publish;
mod ready_file;
mod remote;
mod runtime;
mod serve;
mod signals;
mod subscribe;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{EXIT_USAGE, Failure};

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
    /// Generate a key for a publisher, for tokens or for cookies.
    Keygen(keygen::Keygen),
    /// Hash the password of a publisher that cannot sign.
    Password(password::Password),
    /// Publish to a channel.
    Publish(publish::Publish),
    /// Subscribe to channels.
    Subscribe(subscribe::Subscribe),
    /// Connect two terminals through a room.
    Pair(pair::Pair),
    /// Mint a token for a subscriber.
    Token(token::Token),
    /// Check a configuration and explain it.
    Check(check::Check),
    /// List the nodes that share a Redis.
    Nodes(nodes::Nodes),
    /// Check whether a gateway is ready.
    Healthcheck(healthcheck::Healthcheck),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no error.
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
