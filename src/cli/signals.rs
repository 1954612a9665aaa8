//! SIGTERM and Ctrl-C: the first signal stops a command, the second one kills it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;
use signal_hook::low_level;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::failure::{EXIT_SOFTWARE, Failure};
use crate::ops::log;

/// The exit code of a process that Ctrl-C ended (128 + SIGINT).
const EXIT_INTERRUPTED: i32 = 130;

/// The signals are received by a thread of their own, because all threads of the runtime may be blocked.
pub struct Signals(oneshot::Receiver<()>);

impl Signals {
    /// The first signal drops `timer`.
    pub fn new(timer: Option<StopTimer>) -> Result<Self, Failure> {
        let mut signals = SignalIterator::new([SIGTERM, SIGINT]).map_err(failed)?;
        let (first, received) = oneshot::channel();
        let wait = move || {
            let mut signals = signals.forever();
            signals.next();
            drop(timer);
            // The command may have ended.
            let _ = first.send(());
            signals.next();
            low_level::exit(EXIT_INTERRUPTED);
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
        Ok(Self(received))
    }

    /// Handles SIGHUP, which would otherwise end the process.
    pub fn hangup() -> Result<Signal, Failure> {
        signal(SignalKind::hangup()).map_err(failed)
    }

    /// Waits for the first signal. After it, a second signal ends the process at once.
    pub async fn first(self) {
        // The thread lives as long as the process.
        let _ = self.0.await;
    }
}

/// Ends the process some time after the first clone was dropped, also while all threads of the runtime are blocked.
#[derive(Clone)]
pub struct StopTimer(mpsc::Sender<()>);

impl StopTimer {
    pub fn new(timeout: Duration) -> Result<Self, Failure> {
        let (dropped, started) = mpsc::channel();
        let wait = move || {
            let _ = started.recv();
            thread::sleep(timeout);
            log::finish(Some("lastmile: the drain did not end in time\n".to_owned()));
            low_level::exit(EXIT_SOFTWARE.into());
        };
        thread::Builder::new().name("stop timer".to_owned()).spawn(wait).map_err(failed)?;
        Ok(Self(dropped))
    }
}

impl Drop for StopTimer {
    fn drop(&mut self) {
        // The first message counts.
        let _ = self.0.send(());
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot handle signals: {error}"))
}
