//! Runs the broker's walks: small ones at once, large ones on all cores.

use crate::broker::channel::fanout::{Backpressure, Deliveries, Delivery};

/// A channel with no more subscribers than this is walked by its publisher's own task.
const INLINE_MEMBERS: usize = 32;

/// Members that one task writes to before others have their turn.
const STEP: usize = 128;

/// Returns where the publisher ought to wait, if anywhere.
pub fn run(walks: Deliveries) -> Option<Backpressure> {
    let Deliveries { list: walks, backpressure: congestion } = walks;
    let is_small = walks.iter().map(Delivery::subscriber_count).sum::<usize>() <= INLINE_MEMBERS;
    for mut walk in walks {
        if is_small {
            while walk.run_some(INLINE_MEMBERS) {}
        } else {
            tokio::spawn(async move {
                while walk.run_some(STEP) {
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    congestion
}
