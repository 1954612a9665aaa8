//! Connection limits: in total, per listener and per client address.

use std::net::IpAddr;
use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;

use crate::auth::client_addr::ClientAddr;
use crate::broker::quota::{Quota, QuotaPermit};

/// Counts connections and refuses those over a limit.
pub struct ConnectionLimiter {
    max_connections: u64,
    max_per_address: u64,
    counts: Arc<Quota<Counted>>,
    open: Gauge,
    refused: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    All,
    Listener(Arc<str>),
    Address(IpAddr),
}

/// One counted connection; dropping it releases the count.
pub struct Permit {
    limiter: Arc<ConnectionLimiter>,
    _counted: QuotaPermit<Counted, 2>,
    /// Set once: on accept, or when a trusted proxy has named the client.
    address: Mutex<Option<QuotaPermit<Counted>>>,
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
            counts: Quota::new(),
            open: gauge!("lastmile_sockets"),
            refused: counter!("lastmile_sockets_refused_total"),
        })
    }

    /// Counts a connection; `max_on_listener` of 0 means that the listener has no limit of its own.
    pub fn admit(self: &Arc<Self>, listener: &Arc<str>, max_on_listener: u64) -> Result<Permit, LimitReached> {
        let of_listener = (Counted::Listener(listener.clone()), max_on_listener);
        let counted = self.counted([(Counted::All, self.max_connections), of_listener])?;
        self.open.increment(1);
        Ok(Permit { limiter: self.clone(), _counted: counted, address: Mutex::default() })
    }

    fn counted<const N: usize>(&self, keys: [(Counted, u64); N]) -> Result<QuotaPermit<Counted, N>, LimitReached> {
        self.counts.take(keys).ok_or_else(|| {
            self.refused.increment(1);
            LimitReached
        })
    }
}

impl Permit {
    /// Counts the connection for its client's address as well. Further calls change nothing.
    pub fn assign(&self, client: ClientAddr) -> Result<(), LimitReached> {
        let ConnectionLimiter { max_per_address, .. } = *self.limiter;
        let mut address = self.address.lock();
        if address.is_none() && max_per_address != 0 {
            *address = Some(self.limiter.counted([(Counted::Address(client.limit_key()), max_per_address)])?);
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.open.decrement(1);
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
        assert_eq!(limiter.counts.count(&Counted::Address(client.ip())), 0);
    }
}
