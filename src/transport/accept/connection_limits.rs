//! How many connections there may be: in all, on one listener, from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;

use crate::auth::client_addr::ClientAddr;

/// Counts connections and refuses those over a limit.
pub struct ConnectionLimiter {
    max_connections: u64,
    max_per_address: u64,
    counts: Mutex<Counts>,
    open: Gauge,
    refused: Counter,
}

#[derive(Default)]
struct Counts {
    all: u64,
    listeners: HashMap<Arc<str>, u64>,
    addresses: HashMap<IpAddr, u64>,
}

/// A counted connection; it is given back when this is dropped.
pub struct Permit {
    admission: Arc<ConnectionLimiter>,
    listener: Arc<str>,
    /// Set once: on accept, or when a trusted proxy has said who the client is.
    address: Mutex<Option<IpAddr>>,
}

/// One connection too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached;

impl ConnectionLimiter {
    /// 0 means no limit. Registers its metrics with the current recorder.
    pub fn new(max_connections: u64, max_per_address: u64) -> Arc<Self> {
        Arc::new(Self {
            max_connections,
            max_per_address,
            counts: Mutex::default(),
            open: gauge!("lastmile_sockets"),
            refused: counter!("lastmile_sockets_refused_total"),
        })
    }

    /// Counts a connection on a listener that may have `max_on_listener`.
    pub fn admit(self: &Arc<Self>, listener: &Arc<str>, max_on_listener: u64) -> Result<Permit, LimitReached> {
        let mut counts = self.counts.lock();
        let on_listener = counts.listeners.get(listener).copied().unwrap_or(0);
        if is_full(counts.all, self.max_connections) || is_full(on_listener, max_on_listener) {
            self.refused.increment(1);
            return Err(LimitReached);
        }
        counts.all += 1;
        *counts.listeners.entry(listener.clone()).or_default() += 1;
        self.open.increment(1);
        Ok(Permit { admission: self.clone(), listener: listener.clone(), address: Mutex::new(None) })
    }
}

impl Permit {
    /// Counts the connection for its client's address too, once.
    pub fn assign(&self, client: ClientAddr) -> Result<(), LimitReached> {
        let mut address = self.address.lock();
        if address.is_some() || self.admission.max_per_address == 0 {
            return Ok(());
        }
        let key = client.limit_key();
        let mut counts = self.admission.counts.lock();
        let count = counts.addresses.entry(key).or_default();
        if is_full(*count, self.admission.max_per_address) {
            self.admission.refused.increment(1);
            return Err(LimitReached);
        }
        *count += 1;
        *address = Some(key);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.all -= 1;
        release(&mut counts.listeners, &self.listener);
        if let Some(address) = self.address.get_mut() {
            release(&mut counts.addresses, address);
        }
        self.admission.open.decrement(1);
    }
}

fn is_full(count: u64, limit: u64) -> bool {
    limit != 0 && count >= limit
}

/// Takes one off and forgets the entry with the last.
fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_lim_each_limit_holds_at_its_value_and_is_given_back() {
        let admission = ConnectionLimiter::new(3, 1);
        let first = admission.admit(&"a".into(), 2).unwrap();
        let second = admission.admit(&"a".into(), 2).unwrap();
        assert_eq!(admission.admit(&"a".into(), 2).err(), Some(LimitReached));
        let _third = admission.admit(&"b".into(), 0).unwrap();
        assert_eq!(admission.admit(&"b".into(), 0).err(), Some(LimitReached));
        drop(second);
        let fourth = admission.admit(&"b".into(), 0).unwrap();

        let client = ClientAddr::from("192.0.2.1".parse::<IpAddr>().unwrap());
        first.assign(client).unwrap();
        first.assign(client).unwrap();
        assert_eq!(fourth.assign(client), Err(LimitReached));
        drop(first);
        fourth.assign(client).unwrap();
        drop(fourth);
        assert!(admission.counts.lock().addresses.is_empty());
    }
}
