//! SIGTERM and Ctrl-C: the first signal stops a command, the second one kills it.

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

    /// Handles SIGHUP, which would otherwise end the process.
    pub fn hangup() -> Result<Signal, Failure> {
        listen(SignalKind::hangup())
    }

    /// Waits for the first signal. After it, a second signal ends the process at once.
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
