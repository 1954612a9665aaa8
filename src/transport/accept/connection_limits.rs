//! Connection limits: in total, per listener and per client address.

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
    counts: Mutex<ConnectionCounts>,
    open: Gauge,
    refused: Counter,
}

#[derive(Default)]
struct ConnectionCounts {
    total: u64,
    per_listener: HashMap<Arc<str>, u64>,
    per_address: HashMap<IpAddr, u64>,
}

/// One counted connection; dropping it releases the count.
pub struct Permit {
    limiter: Arc<ConnectionLimiter>,
    listener: Arc<str>,
    /// Set once: on accept, or when a trusted proxy has named the client.
    address: Mutex<Option<IpAddr>>,
}

/// A connection limit is reached.
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

    /// Counts a connection; `max_on_listener` of 0 means that the listener has no limit of its own.
    pub fn admit(self: &Arc<Self>, listener: &Arc<str>, max_on_listener: u64) -> Result<Permit, LimitReached> {
        let mut counts = self.counts.lock();
        let on_listener = counts.per_listener.get(listener).copied().unwrap_or(0);
        if is_full(counts.total, self.max_connections) || is_full(on_listener, max_on_listener) {
            self.refused.increment(1);
            return Err(LimitReached);
        }
        counts.total += 1;
        *counts.per_listener.entry(listener.clone()).or_default() += 1;
        self.open.increment(1);
        Ok(Permit { limiter: self.clone(), listener: listener.clone(), address: Mutex::new(None) })
    }
}

impl Permit {
    /// Counts the connection for its client's address as well. Further calls change nothing.
    pub fn assign(&self, client: ClientAddr) -> Result<(), LimitReached> {
        let mut address = self.address.lock();
        if address.is_some() || self.limiter.max_per_address == 0 {
            return Ok(());
        }
        let key = client.limit_key();
        let mut counts = self.limiter.counts.lock();
        let count = counts.per_address.entry(key).or_default();
        if is_full(*count, self.limiter.max_per_address) {
            self.limiter.refused.increment(1);
            return Err(LimitReached);
        }
        *count += 1;
        *address = Some(key);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.limiter.counts.lock();
        counts.total -= 1;
        release(&mut counts.per_listener, &self.listener);
        if let Some(address) = self.address.get_mut() {
            release(&mut counts.per_address, address);
        }
        self.limiter.open.decrement(1);
    }
}

fn is_full(count: u64, limit: u64) -> bool {
    limit != 0 && count >= limit
}

/// Decrements a count and removes its entry at zero.
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
    fn limits_hold_and_are_released() {
        let limiter = ConnectionLimiter::new(3, 1);
        let first = limiter.admit(&"a".into(), 2).unwrap();
        let second = limiter.admit(&"a".into(), 2).unwrap();
        assert_eq!(limiter.admit(&"a".into(), 2).err(), Some(LimitReached));
        let _third = limiter.admit(&"b".into(), 0).unwrap();
        assert_eq!(limiter.admit(&"b".into(), 0).err(), Some(LimitReached));
        drop(second);
        let fourth = limiter.admit(&"b".into(), 0).unwrap();

        let client = ClientAddr::from("192.0.2.1".parse::<IpAddr>().unwrap());
        first.assign(client).unwrap();
        first.assign(client).unwrap();
        assert_eq!(fourth.assign(client), Err(LimitReached));
        drop(first);
        fourth.assign(client).unwrap();
        drop(fourth);
        assert!(limiter.counts.lock().per_address.is_empty());
    }
}
