//! Connection limits: in total, per listener and per client address. Publishers and operators have places in reserve.

use std::net::IpAddr;
use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;

use crate::auth::client_addr::ClientAddr;
use crate::broker::quota::{Quota, QuotaPermit};
use crate::transport::config::{ListenerConfig, Role};

/// Connections to listeners of operators alone: health checks, metrics and a person who looks.
const OPERATOR_PLACES: u64 = 64;

/// Connections to listeners of publishers that take no place of subscribers. Further ones do.
const PUBLISHER_PLACES: u64 = 1024;

/// The reserves take at most this part of the descriptors, each.
const RESERVED_PART: u64 = 8;

/// Counts connections and refuses those over a limit.
pub struct ConnectionLimiter {
    places: Places,
    max_per_address: u64,
    counts: Arc<Quota<Counted>>,
    open: Gauge,
    refused: Counter,
}

/// Most connections of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    public: u64,
    publishers: u64,
    operators: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    Public,
    Publishers,
    Operators,
    Listener(Arc<str>),
    Address(IpAddr),
}

/// The part of a listener's configuration that decides which limits its connections have.
#[derive(Clone)]
pub struct ListenerShare {
    name: Arc<str>,
    /// 0 means that the listener has no limit of its own.
    max_connections: u64,
    clients: Clients,
}

/// The clients for which a listener is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    Strangers,
    Publishers,
    Operators,
}

/// One counted connection; dropping it releases the count.
pub struct Permit {
    limiter: Arc<ConnectionLimiter>,
    _counted: QuotaPermit<Counted, 2>,
    is_limited_by_address: bool,
    /// Set once: on accept, or when a trusted proxy has named the client.
    address: Mutex<Option<QuotaPermit<Counted>>>,
}

/// A stream of an HTTP/2 connection that counts as a connection of its own.
pub struct StreamPermit {
    _counted: QuotaPermit<Counted, 2>,
    _address: Option<QuotaPermit<Counted>>,
}

/// A connection limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached;

impl Places {
    /// `descriptors` are those that the process may use for connections.
    pub fn new(max_connections: u64, descriptors: u64) -> Self {
        let operators = OPERATOR_PLACES.min(descriptors / RESERVED_PART).max(1);
        let publishers = PUBLISHER_PLACES.min(descriptors / RESERVED_PART).max(1);
        let public = max_connections.min(descriptors.saturating_sub(operators + publishers)).max(1);
        Self { public, publishers, operators }
    }

    /// Connections of clients that are strangers, over all listeners.
    pub fn public(&self) -> u64 {
        self.public
    }

    /// Descriptors that all places together need.
    pub fn total(&self) -> u64 {
        self.public + self.publishers + self.operators
    }
}

impl ListenerShare {
    pub fn of(config: &ListenerConfig) -> Self {
        let has_only = |roles: &[Role]| config.roles.iter().all(|role| roles.contains(role));
        let clients = if has_only(&[Role::Ops]) {
            Clients::Operators
        } else if has_only(&[Role::Ops, Role::Publish, Role::FlockPublish]) {
            Clients::Publishers
        } else {
            Clients::Strangers
        };
        Self { name: config.name.as_str().into(), max_connections: config.max_connections, clients }
    }
}

impl ConnectionLimiter {
    /// `max_per_address` of 0 means no limit. Registers its metrics with the current recorder.
    pub fn new(places: Places, max_per_address: u64) -> Arc<Self> {
        Arc::new(Self {
            places,
            max_per_address,
            counts: Quota::new(),
            open: gauge!("lastmile_sockets"),
            refused: counter!("lastmile_sockets_refused_total"),
        })
    }

    /// Counts a connection of a listener.
    pub fn admit(self: &Arc<Self>, listener: &ListenerShare) -> Result<Permit, LimitReached> {
        let counted = self.take_place(listener).ok_or_else(|| self.refuse())?;
        self.open.increment(1);
        let is_limited_by_address = listener.clients != Clients::Operators && self.max_per_address != 0;
        Ok(Permit { limiter: self.clone(), _counted: counted, is_limited_by_address, address: Mutex::default() })
    }

    /// Counts a stream of a connection that has its own count already. `client` is `None` if its address is unknown.
    pub fn admit_stream(
        &self,
        listener: &ListenerShare,
        client: Option<ClientAddr>,
    ) -> Result<StreamPermit, LimitReached> {
        let counted = self.take_place(listener).ok_or(LimitReached)?;
        let address = client.filter(|_| self.max_per_address != 0).map(|client| self.take_of(client));
        let address = address.map(|taken| taken.ok_or(LimitReached)).transpose()?;
        Ok(StreamPermit { _counted: counted, _address: address })
    }

    fn take_place(&self, listener: &ListenerShare) -> Option<QuotaPermit<Counted, 2>> {
        let Places { public, publishers, operators } = self.places;
        let take = |place, max| {
            let of_listener = (Counted::Listener(listener.name.clone()), listener.max_connections);
            self.counts.take([(place, max), of_listener])
        };
        match listener.clients {
            Clients::Strangers => take(Counted::Public, public),
            Clients::Publishers => take(Counted::Publishers, publishers).or_else(|| take(Counted::Public, public)),
            Clients::Operators => take(Counted::Operators, operators),
        }
    }

    fn take_of(&self, client: ClientAddr) -> Option<QuotaPermit<Counted>> {
        self.counts.take([(Counted::Address(client.limit_key()), self.max_per_address)])
    }

    fn refuse(&self) -> LimitReached {
        self.refused.increment(1);
        LimitReached
    }
}

impl Permit {
    /// Counts the connection for its client's address as well. Further calls change nothing.
    pub fn assign(&self, client: ClientAddr) -> Result<(), LimitReached> {
        let mut address = self.address.lock();
        if address.is_none() && self.is_limited_by_address {
            *address = Some(self.limiter.take_of(client).ok_or_else(|| self.limiter.refuse())?);
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

    fn share(name: &str, max_connections: u64, clients: Clients) -> ListenerShare {
        ListenerShare { name: name.into(), max_connections, clients }
    }

    #[test]
    fn limits_hold_and_are_released() {
        let limiter = ConnectionLimiter::new(Places::new(3, u64::MAX), 1);
        let (a, b) = (share("a", 2, Clients::Strangers), share("b", 0, Clients::Strangers));
        let first = limiter.admit(&a).unwrap();
        let second = limiter.admit(&a).unwrap();
        assert_eq!(limiter.admit(&a).err(), Some(LimitReached));
        let _third = limiter.admit(&b).unwrap();
        assert_eq!(limiter.admit(&b).err(), Some(LimitReached));
        drop(second);
        let fourth = limiter.admit(&b).unwrap();

        let client = ClientAddr::from("192.0.2.1".parse::<IpAddr>().unwrap());
        first.assign(client).unwrap();
        first.assign(client).unwrap();
        assert_eq!(fourth.assign(client), Err(LimitReached));
        drop(first);
        fourth.assign(client).unwrap();
        drop(fourth);
        assert_eq!(limiter.counts.count(&Counted::Address(client.ip())), 0);
    }

    #[test]
    fn reserves_outlast_a_full_public_side() {
        let limiter = ConnectionLimiter::new(Places::new(2, u64::MAX), 0);
        let public = share("public", 0, Clients::Strangers);
        let _full = [limiter.admit(&public).unwrap(), limiter.admit(&public).unwrap()];
        assert!(limiter.admit(&public).is_err() && limiter.admit_stream(&public, None).is_err());
        for (clients, places) in [(Clients::Publishers, PUBLISHER_PLACES), (Clients::Operators, OPERATOR_PLACES)] {
            let listener = share("inside", 0, clients);
            let open: Vec<_> = (0..places).map(|_| limiter.admit(&listener).unwrap()).collect();
            assert!(limiter.admit(&listener).is_err());
            drop(open);
        }
    }

    #[test]
    fn descriptors_bound_all_places() {
        for descriptors in [16, 32, 992, 4064, 200_000] {
            let places = Places::new(100_000, descriptors);
            assert!(places.total() <= descriptors, "{places:?}");
            assert!(places.operators > 0 && places.publishers > 0 && places.public > 0);
        }
        assert_eq!(Places::new(100_000, u64::MAX).public, 100_000);
    }
}
