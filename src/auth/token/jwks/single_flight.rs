//! Single-flight gate for fetches of an issuer's keys: tokens cause few of them, and all tokens wait for the same one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Shortest time between fetches that tokens with unknown keys cause. Tokens of strangers cause no flood of requests to
/// the provider, and a key that it really added is known within seconds.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait of a token for the fetch of a discovery document and a key set.
const FETCH_WAIT_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a key id that a fetch did not bring causes no further fetch.
const ABSENT_KEY_TTL: Duration = Duration::from_secs(30);
/// Key ids that are remembered as absent. Strangers choose them.
const MAX_ABSENT_KEYS: usize = 1000;

pub struct FetchGate {
    state: Mutex<GateState>,
    requested: Notify,
    /// Ended fetches, and whether the last one succeeded.
    ended: watch::Sender<(u64, bool)>,
}

#[derive(Default)]
struct GateState {
    /// A refresh task exists.
    is_served: bool,
    in_progress: bool,
    last_request: Option<Instant>,
    /// Hash of a key id, and when a fetch did not bring it.
    absent: HashMap<u64, Instant>,
    hasher: std::hash::RandomState,
}

/// State of the keys after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// As new as the provider's, or from a file: no fetch brings another key.
    Current,
    /// Fetched while the token waited.
    Fetched,
    /// As before: the fetch failed, or was too soon after the last one.
    NotFetched,
}

impl Default for FetchGate {
    fn default() -> Self {
        Self { state: Mutex::default(), requested: Notify::new(), ended: watch::Sender::new((0, false)) }
    }
}

impl FetchGate {
    /// Waits for the end of the fetch in progress, or of one that this call causes. Returns at once if a fetch was
    /// requested within [`MIN_FETCH_INTERVAL`], or did not bring this key.
    pub async fn wait(&self, key_id: Option<&str>) -> FetchOutcome {
        // Subscribe first, so that no end is missed.
        let mut ended = self.ended.subscribe();
        match self.join(key_id) {
            FetchOutcome::Fetched => match timeout(FETCH_WAIT_TIMEOUT, ended.changed()).await {
                Ok(Ok(())) if ended.borrow().1 => FetchOutcome::Fetched,
                _ => FetchOutcome::NotFetched,
            },
            outcome => outcome,
        }
    }

    /// A fetch did not bring this key.
    pub fn record_absent(&self, key_id: Option<&str>) {
        let Some(key_id) = key_id else { return };
        let mut state = self.state.lock();
        if state.absent.len() >= MAX_ABSENT_KEYS {
            state.absent.retain(|_, since| since.elapsed() < ABSENT_KEY_TTL);
        }
        if state.absent.len() < MAX_ABSENT_KEYS {
            let hash = state.hash(key_id);
            state.absent.insert(hash, Instant::now());
        }
    }

    /// Called by the refresh task before its first fetch, which it starts at once.
    pub fn serve(&self) {
        *self.state.lock() = GateState { is_served: true, in_progress: true, ..GateState::default() };
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
    pub fn end(&self, is_success: bool) {
        self.state.lock().in_progress = false;
        self.ended.send_modify(|(count, last)| (*count, *last) = (*count + 1, is_success));
    }

    /// Joins the fetch in progress, or requests one. `Fetched` if there is an end to wait for.
    fn join(&self, key_id: Option<&str>) -> FetchOutcome {
        let mut state = self.state.lock();
        if state.in_progress {
            return FetchOutcome::Fetched;
        }
        if !state.is_served || key_id.is_some_and(|key_id| state.is_absent(key_id)) {
            return FetchOutcome::Current;
        }
        if state.last_request.is_some_and(|last| last.elapsed() < MIN_FETCH_INTERVAL) {
            return FetchOutcome::NotFetched;
        }
        state.last_request = Some(Instant::now());
        state.in_progress = true;
        self.requested.notify_one();
        FetchOutcome::Fetched
    }
}

impl GateState {
    fn hash(&self, key_id: &str) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one(key_id)
    }

    fn is_absent(&self, key_id: &str) -> bool {
        self.absent.get(&self.hash(key_id)).is_some_and(|since| since.elapsed() < ABSENT_KEY_TTL)
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
        assert_eq!(gate.wait(None).await, FetchOutcome::Current);
        gate.serve();
        gate.end(true);
        let (serving, counted) = (gate.clone(), fetches.clone());
        let server = tokio::spawn(async move {
            loop {
                serving.requested().await;
                serving.begin();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                serving.end(true);
            }
        });
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (gate, fetches) = (gate.clone(), fetches.clone());
                tokio::spawn(async move {
                    assert_eq!(gate.wait(None).await, FetchOutcome::Fetched);
                    fetches.load(Ordering::SeqCst)
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 1);
        }
        // Too soon for a second fetch. A key that the first one did not bring is known to be absent.
        assert_eq!(gate.wait(Some("a")).await, FetchOutcome::NotFetched);
        gate.record_absent(Some("a"));
        assert_eq!(gate.wait(Some("a")).await, FetchOutcome::Current);
        assert_eq!(gate.wait(Some("b")).await, FetchOutcome::NotFetched);
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        server.abort();
    }
}
