//! Who may cause a fetch, and who waits for one: however many ask, one fetch runs, and tokens cause one a minute.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Tokens with unknown keys cause no second fetch before that, so that nobody can make the gateway a flood.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait for somebody else's provider: a document and a key set.
const FETCH_WAIT_TIMEOUT: Duration = Duration::from_secs(8);

pub struct FetchGate {
    state: Mutex<GateState>,
    asked: Notify,
    /// Counts fetches that ended, well or not.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct GateState {
    /// Somebody fetches at all.
    is_served: bool,
    under_way: bool,
    last_asked: Option<Instant>,
}

impl Default for FetchGate {
    fn default() -> Self {
        Self { state: Mutex::default(), asked: Notify::new(), ended: watch::Sender::new(0) }
    }
}

impl FetchGate {
    /// Waits for the end of the fetch that is under way, or of one that this call causes. Returns at once if there
    /// was one lately.
    pub async fn wait(&self) {
        // Before the question, so that no end is missed in between.
        let mut ended = self.ended.subscribe();
        if self.join() {
            let _ = timeout(FETCH_WAIT_TIMEOUT, ended.changed()).await;
        }
    }

    /// From now on somebody fetches, and at once.
    pub fn serve(&self) {
        *self.state.lock() = GateState { is_served: true, under_way: true, last_asked: None };
    }

    /// The fetching side: until somebody asks.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The fetching side: a fetch begins.
    pub fn begin(&self) {
        self.state.lock().under_way = true;
    }

    /// The fetching side: it has ended.
    pub fn end(&self) {
        self.state.lock().under_way = false;
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// Whether there is an end to wait for.
    fn join(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_served || state.under_way {
            return state.under_way;
        }
        if state.last_asked.is_some_and(|last| last.elapsed() < MIN_FETCH_INTERVAL) {
            return false;
        }
        state.last_asked = Some(Instant::now());
        state.under_way = true;
        self.asked.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn t_j7_many_callers_cause_one_fetch_and_wait_for_it() {
        let (demand, fetches) = (Arc::new(FetchGate::default()), Arc::new(AtomicU32::new(0)));
        // Without somebody who fetches nobody waits.
        demand.wait().await;
        demand.serve();
        demand.end();
        let (serving, counted) = (demand.clone(), fetches.clone());
        let server = tokio::spawn(async move {
            loop {
                serving.asked().await;
                serving.begin();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                serving.end();
            }
        });
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (demand, fetches) = (demand.clone(), fetches.clone());
                tokio::spawn(async move {
                    demand.wait().await;
                    fetches.load(Ordering::SeqCst)
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 1);
        }
        // The minute is not over.
        demand.wait().await;
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        server.abort();
    }
}
