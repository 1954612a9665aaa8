//! The phases of a gateway: starting, ready, draining, stopped.

use tokio::sync::watch;

/// In their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    Ready,
    /// No new connections; those that are open are being closed. Only operators are still answered.
    Draining,
    /// Nobody is answered any more.
    Stopped,
}

impl Phase {
    /// Why the gateway is not ready, if it is not.
    pub fn unready_reason(self) -> Option<&'static str> {
        match self {
            Self::Starting => Some("starting"),
            Self::Ready => None,
            Self::Draining => Some("draining"),
            Self::Stopped => Some("stopped"),
        }
    }
}

/// The current phase, for whoever asks or waits.
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Lifecycle {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    pub fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }

    /// Waits for a phase, or one behind it.
    pub async fn reached(&self, wanted: Phase) {
        // The sender is in `self`, so this cannot fail while it is awaited.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= wanted).await;
    }
}
