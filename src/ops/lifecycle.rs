//! The phases of a gateway: starting, ready, draining, stopped; and the tasks that live as long as it does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
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
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    failed_task: OnceLock<&'static str>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Starting), failed_task: OnceLock::new() }
    }
}

impl Lifecycle {
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters a phase, unless a later one was reached before.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let is_later = phase > *current;
            *current = phase.max(*current);
            is_later
        });
    }

    /// Waits for `target` or a later phase.
    pub async fn reached(&self, target: Phase) {
        // Fails only without a sender, which `self` holds.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= target).await;
    }

    /// Runs a task without which the gateway does not work. If it ends or panics before the drain, the drain begins.
    pub async fn supervise(self: Arc<Self>, task: &'static str, work: impl Future<Output = ()>) {
        // The hook of the process logs the cause of a panic.
        let _ = AssertUnwindSafe(work).catch_unwind().await;
        self.task_ended(task);
    }

    /// The same for the work of a thread, which may end at any time but must not panic. Returns whether it panicked.
    pub fn supervise_thread(&self, task: &'static str, work: impl FnOnce()) -> bool {
        let has_panicked = catch_unwind(AssertUnwindSafe(work)).is_err();
        if has_panicked {
            self.task_ended(task);
        }
        has_panicked
    }

    /// The supervised task that ended first.
    pub fn failed_task(&self) -> Option<&'static str> {
        self.failed_task.get().copied()
    }

    fn task_ended(&self, task: &'static str) {
        if self.phase() < Phase::Draining && self.failed_task.set(task).is_ok() {
            tracing::error!(task, "task ended, stopping");
            self.enter(Phase::Draining);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ended_or_panicked_task_begins_drain() {
        for work in [true, false] {
            let lifecycle = Arc::<Lifecycle>::default();
            lifecycle.enter(Phase::Ready);
            tokio::spawn(lifecycle.clone().supervise("sweep", async move { assert!(work, "the task panics") }));
            lifecycle.reached(Phase::Draining).await;
            assert_eq!(lifecycle.failed_task(), Some("sweep"));
        }
    }

    #[test]
    fn panicked_thread_begins_drain() {
        let lifecycle = Lifecycle::default();
        assert!(!lifecycle.supervise_thread("committer", || {}));
        assert_eq!((lifecycle.phase(), lifecycle.failed_task()), (Phase::Starting, None));
        assert!(lifecycle.supervise_thread("committer", || panic!("the thread panics")));
        // A task that fails during the start is not forgotten when the start ends.
        lifecycle.enter(Phase::Ready);
        assert_eq!((lifecycle.phase(), lifecycle.failed_task()), (Phase::Draining, Some("committer")));
    }

    #[tokio::test]
    async fn cancelled_task_and_end_of_drain_are_no_failures() {
        let lifecycle = Arc::<Lifecycle>::default();
        lifecycle.enter(Phase::Ready);
        let task = tokio::spawn(lifecycle.clone().supervise("refresh", std::future::pending()));
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!((lifecycle.phase(), lifecycle.failed_task()), (Phase::Ready, None));
        lifecycle.enter(Phase::Draining);
        lifecycle.clone().supervise("listener", async {}).await;
        assert_eq!(lifecycle.failed_task(), None);
    }
}
