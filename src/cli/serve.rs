//! `lastmile serve`: runs the gateway until it is told to stop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, Failure};
use crate::config::Loaded;
use crate::gateway::{DrainReport, Gateway, Reloader};
use crate::ops::log;

/// How often the configuration's files are looked at.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile serve
  lastmile serve --config /etc/lastmile.toml
  LASTMILE_LISTENERS__PUBLIC__ADDRESS=127.0.0.1:9000 lastmile serve

SIGTERM and Ctrl-C drain: nothing new is accepted and every connection is told to come back elsewhere.
SIGHUP and a change of the files reload the whitelist, keys, channel rules and certificates.")]
pub struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let loaded = self.config.load()?;
        log::start(&loaded.config.log);
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        runtime()?.block_on(serve(self.config, loaded))
    }
}

/// A runtime with a thread for every core.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

async fn serve(args: ConfigArgs, loaded: Loaded) -> Result<(), Failure> {
    let Loaded { config, watched, warnings: _ } = loaded;
    let gateway = Gateway::bind(config, false).map_err(|error| match error.is_misconfigured() {
        true => Failure::usage(error.to_string()),
        false => Failure::failed(error.to_string()),
    })?;
    for (listener, address) in gateway.listeners() {
        let roles: Vec<_> = listener.roles.iter().map(|role| role.name()).collect();
        tracing::info!(listener = listener.name, %address, roles = roles.join(","), tls = listener.tls.is_some(), "listening");
    }
    let signals = Signals::new()?;
    let reload = tokio::spawn(reload(args, gateway.reloader(), watched));
    let DrainReport { closed, left } = gateway.run(signals.shutdown()).await;
    reload.abort();
    tracing::info!(closed, left, "stopped");
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot handle signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the first signal; a second one ends the process at once.
    async fn shutdown(mut self) {
        let mut either =
            async move || tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} };
        either().await;
        tracing::info!("draining; a second signal ends at once");
        tokio::spawn(async move {
            either().await;
            std::process::exit(130);
        });
    }
}

/// Reloads on SIGHUP and when a file changes.
async fn reload(args: ConfigArgs, reloader: Reloader, mut watched: Vec<PathBuf>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut seen = look(&watched);
    loop {
        let is_asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(WATCH) => false,
        };
        let now = look(&watched);
        if !is_asked && now == seen {
            continue;
        }
        seen = now;
        let result = args.load().map_err(|failure| failure.message).and_then(|loaded| {
            loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let applied = reloader.reload(loaded.config.policy).map_err(|error| error.to_string());
            applied.map(|()| watched = loaded.watched)
        });
        match reloader.reload_places().await {
            Ok(true) => tracing::info!("new GeoIP databases"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the GeoIP databases before it stay"),
        }
        match result {
            Ok(()) => {
                seen = look(&watched);
                tracing::info!("reloaded");
            }
            Err(error) => {
                reloader.refused();
                tracing::error!(%error, "not reloaded; what was in force stays");
            }
        }
    }
}

/// What tells a file from its next version, cheaply.
fn look(files: &[PathBuf]) -> HashMap<PathBuf, Option<(SystemTime, u64)>> {
    let version = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(|file| (file.clone(), version(file))).collect()
}
