//! SIGTERM and Ctrl-C: the first one asks for the end, the second one is the end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// The exit code of a process that Ctrl-C ended (128 + SIGINT).
const EXIT_INTERRUPTED: i32 = 130;

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// SIGHUP, which no longer ends the process.
    pub fn hangup() -> Result<Signal, Failure> {
        listen(SignalKind::hangup())
    }

    /// Waits for the first signal; from then on a second one ends the process at once.
    pub async fn first(mut self) {
        let mut either =
            async move || tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} };
        either().await;
        tokio::spawn(async move {
            either().await;
            std::process::exit(EXIT_INTERRUPTED);
        });
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot handle signals: {error}")))
}
