//! `lastmile serve`: runs the gateway until a signal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::signal::unix::Signal;

use super::config_args::ConfigArgs;
use super::failure::Failure;
use super::ready_file::{ReadyFile, listener_urls};
use super::runtime::runtime;
use super::signals::{Signals, StopTimer};
use crate::broker::Now;
use crate::config::Loaded;
use crate::gateway::{DrainReport, Gateway, Reloader};
use crate::ops::{descriptors, log};
use crate::transport::accept::connection_limits::Places;

const CLOCK_POLL_INTERVAL: Duration = Duration::from_millis(5);

const FILE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// After the drain's deadline: the last messages to other nodes, the last transaction and the last lines of the log.
const STOP_MARGIN: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile serve
  lastmile serve --config /etc/lastmile.toml
  LASTMILE_LISTENERS__PUBLIC__ADDRESS=127.0.0.1:9000 lastmile serve
  lastmile serve --set listeners.public.address=127.0.0.1:0 --ready-file run/gateway.json

SIGTERM and Ctrl-C drain: the gateway accepts no new connections and asks clients to reconnect to another node.
A second signal ends the process at once.
SIGHUP, or a change of one of the files, reloads the whitelist, keys, channel rules and certificates.")]
pub struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// Write the URL of each listener to this file once the gateway is ready, as a JSON object by listener name;
    /// removed when the process ends
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let ended = self.serve();
        // Standard error may be a pipe that is never read, so this command does not write to it itself.
        let message = ended.as_ref().err().map(|failure| format!("lastmile: {}\n", failure.message));
        log::finish(message);
        ended.map_err(|failure| Failure { message: String::new(), ..failure })
    }

    fn serve(self) -> Result<(), Failure> {
        let loaded = self.config.load()?;
        log::start(&loaded.config.log).map_err(|error| Failure::failed(format!("cannot start the log: {error}")))?;
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        raise_descriptor_limit(loaded.config.limits.transport.max_connections);
        let ready_file = self.ready_file.map(ReadyFile::create).transpose()?;
        runtime()?.block_on(serve(self.config, loaded, ready_file))
    }
}

/// Each connection needs a descriptor. With fewer, the gateway accepts fewer connections.
fn raise_descriptor_limit(max_connections: u64) {
    let limit = descriptors::raise_limit();
    let needed = Places::new(max_connections, u64::MAX).total();
    let for_connections = descriptors::for_connections();
    if for_connections < needed {
        let connections = Places::new(max_connections, for_connections).public();
        tracing::warn!(
            limit,
            connections,
            max_connections,
            "file descriptors (nofile) are fewer than limits.max_connections needs, accepting fewer connections"
        );
    }
}

async fn serve(args: ConfigArgs, loaded: Loaded, mut ready_file: Option<ReadyFile>) -> Result<(), Failure> {
    let Loaded { config, watched, warnings: _ } = loaded;
    // Before the listeners are visible: a signal or a changed file that follows them must not be missed.
    let timer = StopTimer::new(config.drain.deadline + STOP_MARGIN)?;
    let (signals, hangup) = (Signals::new(Some(timer.clone()))?, Signals::hangup()?);
    let files = WatchedFiles::new(watched);
    if config.forgets_signatures() {
        next_second().await;
    }
    let gateway = Gateway::bind(config, false).map_err(|error| match error.is_misconfigured() {
        true => Failure::usage(error.to_string()),
        false => Failure::failed(error.to_string()),
    })?;
    for (listener, address) in gateway.listeners() {
        let roles: Vec<_> = listener.roles.iter().map(|role| role.name()).collect();
        tracing::info!(listener = listener.name, %address, roles = roles.join(","), tls = listener.tls.is_some(), "listening");
    }
    let urls = listener_urls(&gateway);
    let (ready, mut published) = (gateway.ready(), Ok(()));
    let shutdown = async {
        // Dropped when the drain begins, also without a signal.
        let _timer = timer;
        let mut signalled = pin!(signals.first());
        tokio::select! {
            biased;
            () = &mut signalled => {}
            () = ready => {
                if let Some(file) = &mut ready_file {
                    published = file.publish(&urls);
                }
                if published.is_err() {
                    return;
                }
                signalled.await;
            }
        }
        tracing::info!("draining; a second signal ends the process at once");
    };
    let reload = tokio::spawn(gateway.supervise("reload", reload(args, gateway.reloader(), hangup, files)));
    let DrainReport { closed, left, failed_task } = gateway.run(shutdown).await;
    reload.abort();
    tracing::info!(closed, left, "stopped");
    match failed_task {
        Some(task) => Err(Failure::internal(format!("the gateway stopped because a task ended: {task}"))),
        None => published,
    }
}

/// Waits for the next second of the wall clock. Signatures of the present one may have been accepted by an earlier process,
/// and clients that find the listeners must not be refused for that.
async fn next_second() {
    let present = Now::read().unix();
    while Now::read().unix() == present {
        tokio::time::sleep(CLOCK_POLL_INTERVAL).await;
    }
}

/// Reloads on SIGHUP and when a file changes.
async fn reload(args: ConfigArgs, reloader: Reloader, mut hangup: Signal, mut files: WatchedFiles) {
    loop {
        let is_signalled = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(FILE_POLL_INTERVAL) => false,
        };
        if !files.have_changed() && !is_signalled {
            continue;
        }
        match reloader.reload_geo().await {
            Ok(true) => tracing::info!("GeoIP databases reloaded"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "keeping the previous GeoIP databases"),
        }
        match try_reload(&args, &reloader) {
            Ok(watched) => {
                files.watch(watched);
                tracing::info!("reloaded");
            }
            Err(error) => tracing::error!(%error, "reload failed, keeping the previous configuration"),
        }
    }
}

/// Returns the files to watch from then on.
fn try_reload(args: &ConfigArgs, reloader: &Reloader) -> Result<Vec<PathBuf>, String> {
    let Loaded { config, watched, warnings } = args.load().map_err(|failure| {
        reloader.refused();
        failure.message
    })?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    reloader.reload(config.policy).map_err(|error| error.to_string())?;
    Ok(watched)
}

/// The files of a configuration, each with its last known version.
struct WatchedFiles(HashMap<PathBuf, Version>);

/// Modification time and size; `None` for a missing file.
type Version = Option<(SystemTime, u64)>;

impl WatchedFiles {
    fn new(watched: Vec<PathBuf>) -> Self {
        Self(watched.into_iter().map(|file| (file.clone(), version(&file))).collect())
    }

    /// Checks all files. The check comes before the next read, so a change in between is seen by the next check.
    fn have_changed(&mut self) -> bool {
        let mut changed = false;
        for (file, known) in &mut self.0 {
            let current = version(file);
            changed |= *known != current;
            *known = current;
        }
        changed
    }

    /// Replaces the files. A file that was watched before keeps its known version.
    fn watch(&mut self, watched: Vec<PathBuf>) {
        let mut known = std::mem::take(&mut self.0);
        let with_version = |file: PathBuf| {
            let version = known.remove(&file).unwrap_or_else(|| version(&file));
            (file, version)
        };
        self.0 = watched.into_iter().map(with_version).collect();
    }
}

fn version(file: &Path) -> Version {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
