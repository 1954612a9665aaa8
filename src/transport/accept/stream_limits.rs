//! Streams of one HTTP/2 connection: those without a credential, and those that count as connections.

use std::sync::Arc;

use super::connection_limits::{ConnectionLimiter, LimitReached, ListenerShare, StreamPermit};
use crate::auth::client_addr::ClientAddr;
use crate::broker::quota::{Quota, QuotaPermit};

/// Concurrent streams of a client that presents no credential: one for each open page of a browser.
const MAX_ANONYMOUS_STREAMS: u64 = 16;

/// Counts the streams of one connection.
pub struct StreamLimits {
    limiter: Arc<ConnectionLimiter>,
    listener: ListenerShare,
    places: Arc<Quota<Place>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Anonymous,
    /// The count that the connection itself has.
    Connection,
}

/// A stream without a credential, until its response has ended.
#[derive(Clone)]
pub struct AnonymousStream {
    _permit: Arc<QuotaPermit<Place>>,
}

/// An event stream or a poll. The first one uses the count of its connection.
pub struct HeldStream {
    _of_connection: Option<QuotaPermit<Place>>,
    _counted: Option<StreamPermit>,
}

impl StreamLimits {
    pub fn new(limiter: Arc<ConnectionLimiter>, listener: ListenerShare) -> Self {
        Self { limiter, listener, places: Quota::new() }
    }

    /// Counts a stream without a credential.
    pub fn admit_anonymous(&self) -> Result<AnonymousStream, LimitReached> {
        let permit = self.places.take([(Place::Anonymous, MAX_ANONYMOUS_STREAMS)]).ok_or(LimitReached)?;
        Ok(AnonymousStream { _permit: Arc::new(permit) })
    }

    /// Counts an event stream or a poll against the limits of connections. `client` is `None` if its address is unknown.
    pub fn admit_held(&self, client: Option<ClientAddr>) -> Result<HeldStream, LimitReached> {
        let of_connection = self.places.take([(Place::Connection, 1)]);
        let counted = match of_connection {
            Some(_) => None,
            None => Some(self.limiter.admit_stream(&self.listener, client)?),
        };
        Ok(HeldStream { _of_connection: of_connection, _counted: counted })
    }
}
