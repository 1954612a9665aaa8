//! `lastmile demo`: a gateway, a signed publisher and a subscriber on loopback, with temporary keys.

mod scratch_dir;
mod ticker;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lastmile_client::TokenSource;
use tokio::sync::Notify;

use super::failure::Failure;
use super::runtime::runtime;
use super::signals::Signals;
use super::subscribe::follow;
use super::{input, output, remote};
use crate::config::{Loaded, Sources, load};
use crate::gateway::Gateway;
use crate::ops::log;
use crate::transport::config::{Address, Role};
use scratch_dir::{DemoFiles, MEMBERS_CHANNEL, TICKER_CHANNEL};

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile demo
  lastmile demo --port 9000
  lastmile demo --port 0
  lastmile demo --geoip mmdb/city.mmdb

Other machines cannot connect. Ctrl-C ends the demo and removes its files.")]
pub struct Demo {
    /// The page's port; the publish and ops listeners use the next two. 0: any free ports
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(..=65533))]
    port: u16,
    /// A city database (mmdb): peers of a room receive each other's location
    #[arg(long, value_name = "FILE")]
    geoip: Option<PathBuf>,
}

/// The URLs of the bound listeners.
struct Urls {
    public: String,
    publish: String,
    ops: String,
}

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        let files = DemoFiles::new(self.port, self.geoip.as_deref())?;
        // The environment may hold settings of a real gateway, so it is not read.
        let sources = Sources { file: Some(files.config()), ..Sources::default() };
        let loaded = load(&sources).map_err(|error| Failure::failed(error.to_string()))?;
        log::start(&loaded.config.log).map_err(|error| Failure::failed(format!("cannot start the log: {error}")))?;
        let ended = runtime()?.block_on(run(loaded, &files));
        log::finish(None);
        ended
    }
}

async fn run(loaded: Loaded, files: &DemoFiles) -> Result<(), Failure> {
    let signals = Signals::new(None)?;
    let gateway = Gateway::bind(loaded.config, true).map_err(|error| {
        Failure::failed(format!("{error}\nIs another gateway running? `lastmile demo --port 0` takes free ports."))
    })?;
    let urls = Urls::of(&gateway);
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { gateway.run(stopped.notified()).await });

    output::text(&urls.welcome(files))?;
    let client = |url: &str| remote::parse_url(url).map_err(Failure::failed);
    let key = input::publisher_key(&files.key_file())?;
    let channels = vec![TICKER_CHANNEL.to_owned()];
    let ended = tokio::select! {
        () = signals.first() => Ok(()),
        ended = ticker::publish(client(&urls.publish)?, key) => ended,
        ended = follow(client(&urls.public)?, TokenSource::anonymous(), channels, 1, None) => ended,
    };
    stop.notify_one();
    // The demo ends in any case, even if the gateway's task panicked.
    let _ = serving.await;
    ended
}

impl Urls {
    fn of(gateway: &Gateway) -> Self {
        let url = |role: Role| {
            let mut listeners = gateway.listeners();
            match listeners.find(|(listener, _)| listener.roles.contains(&role)) {
                Some((_, Address::Tcp(address))) => format!("http://{address}"),
                // The demo's configuration has all three roles.
                _ => String::new(),
            }
        };
        Self { public: url(Role::Subscribe), publish: url(Role::Publish), ops: url(Role::Ops) }
    }

    fn welcome(&self, files: &DemoFiles) -> String {
        let Self { public, publish, ops } = self;
        let key = quoted(&files.key_file());
        let token = quoted(&files.token_file());
        // The program as it was called: it may not be in the PATH.
        let lastmile = quoted(Path::new(&std::env::args_os().next().unwrap_or_else(|| "lastmile".into())));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "A gateway on this machine, with temporary keys. Ctrl-C ends it and removes them.

  page           {public}/demo
  subscribers    {public}
  publishers     {publish}
  health         {ops}/readyz   {ops}/metrics

Try, in another terminal:

  {lastmile} publish {TICKER_CHANNEL} '{{\"hello\": \"world\"}}' --url {publish} --key {key}
  {lastmile} subscribe {TICKER_CHANNEL} --backlog 5 --url {public}

This channel needs a token:

  {lastmile} subscribe {MEMBERS_CHANNEL} --url {public} --token-file {token}
  {lastmile} publish {MEMBERS_CHANNEL} 'for members only' --url {publish} --key {key}

Output of a subscriber of {TICKER_CHANNEL}:

"
        );
        text
    }
}

/// Quotes a path for a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
