//! The two ends of one subscription share these: options, events, and how it ended.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::publication::{Gap, Position, Publication};

/// From where a channel is wanted, and how much may wait for its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Begin with the newest so many.
    pub backlog: u64,
    /// Begin behind this position, also one of another process. It goes before `backlog`.
    pub since: Option<Position>,
    /// Publications that may wait for the reader. When there are so many the subscription pauses, and goes on from
    /// there once half of them are taken, with what the gateway's backlog still has; 1000 if not said.
    pub buffer: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { backlog: 0, since: None, buffer: 1000 }
    }
}

/// What a listener is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The gateway listens for us: at first, and after each loss of the connection.
    Subscribed {
        /// Where the channel is now.
        position: Position,
        /// Nothing is missing since the place that was asked for. The first time without one, or without a backlog,
        /// it is `false`: there was nothing to go on from.
        recovered: bool,
    },
    /// The gateway's node is cut off from the others: what is published comes later. It ends with
    /// [`Event::Restored`] or [`Event::Subscribed`].
    Degraded,
    /// Everything came, and it goes on.
    Restored,
    /// Something is lost for good, here.
    Gap(Gap),
    /// One publication.
    Publication(Publication),
}

/// What both sides of a subscription know.
#[derive(Debug, Default)]
pub(super) struct ReaderState {
    /// It waits until its reader took something.
    pub is_paused: AtomicBool,
    /// Why it is over.
    pub end: Mutex<Option<Error>>,
}
