//! The phases of a gateway: starting, ready, draining, stopped.

use tokio::sync::watch;

/// Ordered: a gateway only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The policy in force is not known yet. Only the ops role responds.
    Starting,
    Ready,
    /// No new connections are accepted, open ones are being closed. Only the ops role still responds.
    Draining,
    /// No requests are served.
    Stopped,
}

impl Phase {
    /// Returns why the gateway is not ready, or `None` if it is.
    pub fn unready_reason(self) -> Option<&'static str> {
        match self {
            Self::Starting => Some("starting"),
            Self::Ready => None,
            Self::Draining => Some("draining"),
            Self::Stopped => Some("stopped"),
        }
    }
}

/// The current phase, to read or to wait for.
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

    /// Enters a phase, unless a later one was reached before.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let is_later = phase > *current;
            *current = phase.max(*current);
            is_later
        });
    }

    /// Waits for `target` or a later phase.
    pub async fn reached(&self, target: Phase) {
        // Fails only without a sender, which `self` holds.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= target).await;
    }
}
