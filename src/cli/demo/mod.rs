//! `lastmile demo`: a gateway, a signed publisher and a subscriber on loopback, with keys that are thrown away.

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

Nothing outside this machine can connect, and nothing is left behind. Ctrl-C ends it.")]
pub struct Demo {
    /// The page's port; the publish and the ops listener take the next two. 0: any free ones
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(..=65533))]
    port: u16,
    /// A city database (mmdb): peers of the room learn each other's place
    #[arg(long, value_name = "FILE")]
    geoip: Option<PathBuf>,
}

/// Where the listeners really are.
struct Urls {
    public: String,
    publish: String,
    ops: String,
}

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        let workshop = DemoFiles::new(self.port, self.geoip.as_deref())?;
        // The variables of a real gateway have no say here.
        let sources = Sources { file: Some(workshop.config()), ..Sources::default() };
        let loaded = load(&sources).map_err(|error| Failure::failed(error.to_string()))?;
        log::start(&loaded.config.log);
        runtime()?.block_on(run(loaded, &workshop))
    }
}

async fn run(loaded: Loaded, workshop: &DemoFiles) -> Result<(), Failure> {
    let signals = Signals::new()?;
    let gateway = Gateway::bind(loaded.config, true).map_err(|error| {
        Failure::failed(format!("{error}\nIs another gateway running? `lastmile demo --port 0` takes free ports."))
    })?;
    let urls = Urls::of(&gateway);
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { gateway.run(stopped.notified()).await });

    output::text(&urls.welcome(workshop))?;
    let client = |url: &str| remote::parse_url(url).map_err(Failure::failed);
    let key = input::publisher_key(&workshop.key_file())?;
    let channels = vec![TICKER_CHANNEL.to_owned()];
    let ended = tokio::select! {
        () = signals.first() => Ok(()),
        ended = ticker::publish(client(&urls.publish)?, key) => ended,
        ended = follow(client(&urls.public)?, TokenSource::anonymous(), channels, 1, None) => ended,
    };
    stop.notify_one();
    // However the gateway's task ended, it is over.
    let _ = serving.await;
    ended
}

impl Urls {
    fn of(gateway: &Gateway) -> Self {
        let url = |wanted: Role| {
            let mut listeners = gateway.listeners();
            match listeners.find(|(listener, _)| listener.roles.contains(&wanted)) {
                Some((_, Address::Tcp(address))) => format!("http://{address}"),
                // The workshop's configuration has all three.
                _ => String::new(),
            }
        };
        Self { public: url(Role::Subscribe), publish: url(Role::Publish), ops: url(Role::Ops) }
    }

    fn welcome(&self, workshop: &DemoFiles) -> String {
        let Self { public, publish, ops } = self;
        let key = quoted(&workshop.key_file());
        let token = quoted(&workshop.token_file());
        // As it was called here, which is not always by its name.
        let lastmile = quoted(Path::new(&std::env::args_os().next().unwrap_or_else(|| "lastmile".into())));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "A gateway on this machine, with keys that are thrown away at the end (Ctrl-C).

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

What a subscriber of {TICKER_CHANNEL} gets:

"
        );
        text
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
