//! Single-flight gate for fetches of an issuer's keys: tokens cause at most one fetch a minute, and all wait for it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Shortest time between fetches that tokens with unknown keys cause. Prevents a flood of requests to the provider.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait of a token for the fetch of a discovery document and a key set.
const FETCH_WAIT_TIMEOUT: Duration = Duration::from_secs(8);

pub struct FetchGate {
    state: Mutex<GateState>,
    requested: Notify,
    /// Counts finished fetches, successful or not.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct GateState {
    /// A refresh task exists.
    is_served: bool,
    in_progress: bool,
    last_request: Option<Instant>,
}

impl Default for FetchGate {
    fn default() -> Self {
        Self { state: Mutex::default(), requested: Notify::new(), ended: watch::Sender::new(0) }
    }
}

impl FetchGate {
    /// Waits for the end of the fetch in progress, or of one that this call causes. Returns at once if one was
    /// requested within [`MIN_FETCH_INTERVAL`].
    pub async fn wait(&self) {
        // Subscribe first, so that no end is missed.
        let mut ended = self.ended.subscribe();
        if self.join() {
            let _ = timeout(FETCH_WAIT_TIMEOUT, ended.changed()).await;
        }
    }

    /// Called by the refresh task before its first fetch, which it starts at once.
    pub fn serve(&self) {
        *self.state.lock() = GateState { is_served: true, in_progress: true, last_request: None };
    }

    /// Refresh task: waits for a request.
    pub async fn requested(&self) {
        self.requested.notified().await;
    }

    /// Refresh task: a fetch begins.
    pub fn begin(&self) {
        self.state.lock().in_progress = true;
    }

    /// Refresh task: the fetch has ended.
    pub fn end(&self) {
        self.state.lock().in_progress = false;
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// Whether a fetch is in progress or was requested, so that there is an end to wait for.
    fn join(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_served || state.in_progress {
            return state.in_progress;
        }
        if state.last_request.is_some_and(|last| last.elapsed() < MIN_FETCH_INTERVAL) {
            return false;
        }
        state.last_request = Some(Instant::now());
        state.in_progress = true;
        self.requested.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_callers_share_one_fetch() {
        let (gate, fetches) = (Arc::new(FetchGate::default()), Arc::new(AtomicU32::new(0)));
        // Without a refresh task there is no wait.
        gate.wait().await;
        gate.serve();
        gate.end();
        let (serving, counted) = (gate.clone(), fetches.clone());
        let server = tokio::spawn(async move {
            loop {
                serving.requested().await;
                serving.begin();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                serving.end();
            }
        });
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (gate, fetches) = (gate.clone(), fetches.clone());
                tokio::spawn(async move {
                    gate.wait().await;
                    fetches.load(Ordering::SeqCst)
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 1);
        }
        // Within the minute, no second fetch.
        gate.wait().await;
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        server.abort();
    }
}
