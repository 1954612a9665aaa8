//! The rooms of this node by name, and the removal of names without a room.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::context::RoomContext;
use super::table::{Key, RoomTable};

/// Locks over the names, so that rooms rarely wait for each other.
const LOCK_STRIPES: usize = 64;

/// Called for each name that stands for no room any more.
type OnDeleted = Box<dyn Fn(&Key) + Send + Sync>;

type Stripe = HashMap<Key, Arc<RoomTable>>;

pub struct RoomMap {
    pub context: RoomContext,
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    on_deleted: OnceLock<OnDeleted>,
}

impl RoomMap {
    pub fn new(context: RoomContext) -> Self {
        let stripes = (0..LOCK_STRIPES).map(|_| Mutex::default()).collect();
        Self { context, stripes, hasher: RandomState::new(), on_deleted: OnceLock::new() }
    }

    /// The lock of a name.
    pub fn stripe(&self, key: &Key) -> &Mutex<Stripe> {
        &self.stripes[self.hasher.hash_one(key) as usize % LOCK_STRIPES]
    }

    pub fn find(&self, key: &Key) -> Option<Arc<RoomTable>> {
        self.stripe(key).lock().get(key).cloned()
    }

    pub fn insert(&self, table: RoomTable) {
        self.stripe(&table.key).lock().insert(table.key.clone(), Arc::new(table));
    }

    pub fn keys(&self) -> Vec<Key> {
        self.stripes.iter().flat_map(|stripe| stripe.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Removes a table that is marked as deleted.
    pub fn remove(&self, table: &Arc<RoomTable>) {
        let mut stripe = self.stripe(&table.key).lock();
        // Another table may have the name by now, or this one may be in use again.
        if stripe.get(&table.key).is_some_and(|known| Arc::ptr_eq(known, table) && known.is_deleted()) {
            stripe.remove(&table.key);
            self.notify_deleted(&table.key);
        }
    }

    /// Removes the tables for which `keep` returns `false`.
    pub fn retain(&self, keep: impl Fn(&RoomTable) -> bool) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            stripe.retain(|key, table| {
                let is_kept = keep(table);
                if !is_kept {
                    self.notify_deleted(key);
                }
                is_kept
            });
            if stripe.capacity() > 4 * stripe.len() + 64 {
                stripe.shrink_to_fit();
            }
        }
    }

    /// The first callback stays.
    pub fn on_deleted(&self, on_deleted: OnDeleted) {
        let _ = self.on_deleted.set(on_deleted);
    }

    pub fn notify_deleted(&self, key: &Key) {
        if let Some(on_deleted) = self.on_deleted.get() {
            on_deleted(key);
        }
    }
}
