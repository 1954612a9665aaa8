//! `lastmile subscribe`: prints publications, and resumes after a lost connection.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use lastmile_client::{Client, Error, Event, Gateway, State, SubscribeOptions, TokenSource};

use super::failure::Failure;
use super::input::TokenArgs;
use super::runtime::runtime;
use super::signals::Signals;
use super::{output, remote};

/// Publications of one channel that wait for standard output.
const BUFFER: usize = 10_000;

/// Close codes begin here; a smaller status is an HTTP response.
const FIRST_CLOSE_CODE: u16 = 1000;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile subscribe prices.btc
  lastmile subscribe prices.btc prices.eth --backlog 10 --url https://gateway.example
  lastmile subscribe alerts.fire --token-file token.txt
  LASTMILE_TOKEN=… lastmile subscribe alerts.fire | jq .data

Prints one JSON line for each publication. After a lost connection it reconnects and resumes after the last one.
Exit code 0: after Ctrl-C or --count. 1: the first connection failed, or the gateway refused for good.")]
pub struct Subscribe {
    /// The channels
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// The gateway's listener for subscribers
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = remote::parse_url)]
    url: Gateway,
    #[command(flatten)]
    token: TokenArgs,
    /// Start with this many of the newest publications of each channel
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
    /// End after this many publications
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Subscribe {
    pub fn run(self) -> Result<(), Failure> {
        let Self { channels, url, token, backlog, count, ca } = self;
        let gateway = remote::with_authorities(url, ca.as_deref())?;
        let token = token.source()?;
        runtime()?.block_on(async {
            let signals = Signals::new(None)?;
            tokio::select! {
                ended = follow(gateway, token, channels, backlog.unwrap_or(0), count) => ended,
                () = signals.first() => Ok(()),
            }
        })
    }
}

/// Prints publications until `count` are printed or a retry cannot help.
pub async fn follow(
    gateway: Gateway,
    token: TokenSource,
    channels: Vec<String>,
    backlog: u64,
    count: Option<u64>,
) -> Result<(), Failure> {
    if count == Some(0) {
        return Ok(());
    }
    let failed = |error: Error| remote::failure(&gateway, &error);
    let client = Client::connect(gateway.clone(), token).map_err(failed)?;
    let mut state = client.state();
    let mut events = SelectAll::new();
    // A channel that is named twice is one subscription.
    for channel in channels.into_iter().collect::<BTreeSet<_>>() {
        let options = SubscribeOptions { backlog, buffer: BUFFER, ..SubscribeOptions::default() };
        let subscription = client.subscribe(&channel, options).await.map_err(failed)?;
        events.push(subscription.events().map(move |event| (channel.clone(), event)));
    }
    let mut active = events.len();
    let mut left = count;
    let mut was_connected = false;
    loop {
        tokio::select! {
            _ = state.changed() => match &*state.borrow_and_update() {
                State::Connected => was_connected = true,
                State::Waiting(error) => {
                    if !was_connected && error.status.is_none_or(|status| status < FIRST_CLOSE_CODE) {
                        return Err(failed(error.clone()));
                    }
                    output::note(&format!("{}; connecting again", remote::describe(error)));
                }
                _ => {}
            },
            next = events.next() => match next {
                Some((_, Ok(Event::Publication(publication)))) => {
                    output::json_line(publication.frame())?;
                    left = left.map(|left| left - 1);
                    if left == Some(0) {
                        client.close().await;
                        return Ok(());
                    }
                }
                Some((channel, Ok(Event::Gap(_)))) => {
                    output::note(&format!("{}: publications may be missing here", channel.escape_debug()));
                }
                Some((_, Ok(_))) => was_connected = true,
                Some((channel, Err(error))) => {
                    active -= 1;
                    on_end(&gateway, &client, &channel, &error, active)?;
                }
                None => return Ok(()),
            },
        }
    }
}

/// A subscription ended. A channel that the gateway ended leaves the others active.
fn on_end(gateway: &Gateway, client: &Client, channel: &str, error: &Error, active: usize) -> Result<(), Failure> {
    if matches!(&*client.state().borrow(), State::Failed(_)) {
        return Err(remote::failure(gateway, error));
    }
    let channel = channel.escape_debug();
    if error.status.is_none() {
        return Err(Failure::failed(format!("{gateway}: {channel}: {}: {}", error.code, error.message)));
    }
    if active == 0 {
        return Err(Failure::failed(format!("{gateway}: {channel}: {}", error.message)));
    }
    output::note(&format!("{channel}: {}", error.message));
    Ok(())
}
