//! Options and events of a subscription, shared by the client's task and the reader.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::publication::{Gap, Position, Publication};

/// Start position and buffer size of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Starts with this many of the newest publications.
    pub backlog: u64,
    /// Starts after this position, which may come from another process. Overrides `backlog`.
    pub since: Option<Position>,
    /// Publications in the reader's queue; default 1000. A full queue pauses the subscription. It resumes from the
    /// gateway's backlog once half of the queue is free.
    pub buffer: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { backlog: 0, since: None, buffer: 1000 }
    }
}

/// An event of a subscription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The gateway delivers the channel: at the start and after each reconnect.
    Subscribed {
        /// The channel's newest position.
        position: Position,
        /// Whether every publication since the requested position is available. `false` for a first subscription
        /// without `since` or `backlog`.
        recovered: bool,
    },
    /// The gateway's node is disconnected from the other nodes, so publications are delayed.
    /// Ends with [`Event::Restored`] or [`Event::Subscribed`].
    Degraded,
    /// Delayed publications were delivered, and delivery continues.
    Restored,
    /// Publications are lost at this point.
    Gap(Gap),
    /// One publication.
    Publication(Publication),
}

/// State shared by the client's task and the reader.
#[derive(Debug, Default)]
pub(super) struct ReaderState {
    /// The subscription is paused until the reader drains its queue.
    pub is_paused: AtomicBool,
    /// Why the subscription ended.
    pub end: Mutex<Option<Error>>,
}
