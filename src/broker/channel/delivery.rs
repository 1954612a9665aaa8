//! Runs deliveries: small ones in place, large ones as tasks of the runtime.

use super::fanout::{Backpressure, Delivery};

/// A publisher's own task delivers to at most this many subscribers.
const MAX_INLINE_SUBSCRIBERS: usize = 32;

/// Runs a delivery as a task of its own: [`Delivery::run_some`] until it returns `false`.
pub type SpawnDelivery = fn(Delivery);

/// The deliveries that a publication needs.
#[derive(Default)]
#[must_use = "subscribers receive nothing until they are run"]
pub struct Deliveries {
    /// One for each shard that had none.
    pub list: Vec<Delivery>,
    /// The shard that the publisher should wait for, if one is behind.
    pub backpressure: Option<Backpressure>,
    spawn: Option<SpawnDelivery>,
}

impl Deliveries {
    pub fn new(spawn: SpawnDelivery) -> Self {
        Self { list: Vec::new(), backpressure: None, spawn: Some(spawn) }
    }

    pub fn add(&mut self, more: Deliveries) {
        self.list.extend(more.list);
        self.backpressure = self.backpressure.take().or(more.backpressure);
        self.spawn = self.spawn.or(more.spawn);
    }

    /// Runs or spawns each delivery. Returns the shard that the publisher should wait for, if any.
    pub fn run(self) -> Option<Backpressure> {
        let is_small = self.list.iter().map(Delivery::subscriber_count).sum::<usize>() <= MAX_INLINE_SUBSCRIBERS;
        for mut delivery in self.list {
            match self.spawn {
                Some(spawn) if !is_small => spawn(delivery),
                _ => while delivery.run_some(MAX_INLINE_SUBSCRIBERS) {},
            }
        }
        self.backpressure
    }
}
