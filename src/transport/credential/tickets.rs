//! Unused tickets. Each is valid once, for thirty seconds, for one principal and one purpose.
//!
//! Only their hashes are stored, so that leaked memory does not reveal a valid ticket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::broker::quota::{Quota, QuotaPermit};
use crate::broker::{Principal, SharedStore};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::endpoints::TicketPurpose;

pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// Unused tickets of one principal, so that one cannot use up the tickets of all.
const MAX_TICKETS_PER_PRINCIPAL: u64 = 100;

/// Issues and redeems tickets, which the shared store holds. Counts the unused ones that this node issued.
pub struct Tickets {
    capacity: u64,
    counts: Arc<Quota<Counted>>,
    unused: Mutex<HashMap<TicketDigest, IssuedTicket>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    All,
    Of(Owner),
}

/// Tickets are looked up by their hash, so that the time of a lookup reveals nothing about unused tickets.
type TicketDigest = [u8; 32];

/// Issuer and subject of a principal.
type Owner = (Arc<str>, Arc<str>);

struct IssuedTicket {
    _counted: QuotaPermit<Counted, 2>,
    expires: Instant,
}

/// A ticket in the shared store, as JSON.
#[derive(Serialize, Deserialize)]
struct StoredTicket {
    principal: Principal,
    purpose: TicketPurpose,
}

impl Tickets {
    /// `capacity` is the most unused tickets.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity as u64, counts: Quota::new(), unused: Mutex::default() }
    }

    pub async fn issue(
        &self,
        store: &dyn SharedStore,
        principal: Arc<Principal>,
        purpose: TicketPurpose,
        now: Instant,
    ) -> Result<String, Refusal> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::from(ErrorCode::Internal))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        self.reserve(digest(&text), (principal.issuer.clone(), principal.subject.clone()), now)?;
        let stored = serde_json::to_vec(&StoredTicket { principal: Arc::unwrap_or_clone(principal), purpose });
        let stored = stored.map_err(|_| Refusal::from(ErrorCode::Internal))?;
        store.set(&store_name(&text), &stored, TICKET_LIFETIME).await?;
        Ok(text)
    }

    fn reserve(&self, ticket: TicketDigest, owner: Owner, now: Instant) -> Result<(), Refusal> {
        let of_owner = (Counted::Of(owner), MAX_TICKETS_PER_PRINCIPAL);
        let take = || self.counts.take([(Counted::All, self.capacity), of_owner.clone()]);
        let counted = take().or_else(|| {
            self.sweep(now);
            take()
        });
        let counted = counted.ok_or_else(|| {
            let detail = "too many unused tickets, in all (limits.tickets) or of this principal";
            Refusal::new(ErrorCode::LimitReached, detail).retry_after(TICKET_LIFETIME)
        })?;
        self.unused.lock().insert(ticket, IssuedTicket { _counted: counted, expires: now + TICKET_LIFETIME });
        Ok(())
    }

    /// The principal of a ticket, which any node may have issued. The ticket is used up, also where `purpose` is wrong.
    pub async fn redeem(
        &self,
        store: &dyn SharedStore,
        text: &str,
        purpose: TicketPurpose,
    ) -> Result<Option<Arc<Principal>>, Refusal> {
        self.unused.lock().remove(&digest(text));
        let Some(stored) = store.get_and_delete(&store_name(text)).await? else { return Ok(None) };
        let ticket = serde_json::from_slice::<StoredTicket>(&stored).ok().filter(|ticket| ticket.purpose == purpose);
        Ok(ticket.map(|ticket| Arc::new(ticket.principal)))
    }

    /// Drops expired tickets. To be called once a second.
    pub fn sweep(&self, now: Instant) {
        self.unused.lock().retain(|_, ticket| ticket.expires > now);
    }
}

fn digest(text: &str) -> TicketDigest {
    Sha256::digest(text.as_bytes()).into()
}

fn store_name(text: &str) -> String {
    format!("ticket:{}", URL_SAFE_NO_PAD.encode(digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LocalStore;

    fn principal(subject: &str) -> Arc<Principal> {
        Arc::new(Principal {
            issuer: "i".into(),
            subject: subject.into(),
            scopes: vec![],
            groups: vec![],
            claims: Default::default(),
            expires: u64::MAX,
        })
    }

    #[tokio::test]
    async fn redeemed_once_in_time_for_its_purpose() {
        let (tickets, store, now) = (Tickets::new(10), LocalStore::new(10), Instant::now());
        let issue = async || tickets.issue(&store, principal("alice"), TicketPurpose::Subscribe, now).await.unwrap();
        let redeem = async |ticket: &str, purpose| tickets.redeem(&store, ticket, purpose).await.unwrap();
        let ticket = issue().await;
        assert_eq!(ticket.len(), 43);
        store.sweep(now + TICKET_LIFETIME - Duration::from_millis(1));
        let redeemed = redeem(&ticket, TicketPurpose::Subscribe).await;
        assert_eq!(redeemed.map(|principal| principal.subject.to_string()).as_deref(), Some("alice"));
        assert!(redeem(&ticket, TicketPurpose::Subscribe).await.is_none());
        let late = issue().await;
        store.sweep(Instant::now() + TICKET_LIFETIME);
        assert!(redeem(&late, TicketPurpose::Subscribe).await.is_none());
        let other = issue().await;
        assert!(redeem(&other, TicketPurpose::Rooms).await.is_none());
        assert!(redeem(&other, TicketPurpose::Subscribe).await.is_none(), "the first request used it up");
        assert_eq!(tickets.counts.keys(), 0);
    }

    #[tokio::test]
    async fn bounded_in_total_and_per_principal() {
        let (tickets, store, now) =
            (Tickets::new(MAX_TICKETS_PER_PRINCIPAL as usize + 1), LocalStore::new(1000), Instant::now());
        let issue = async |subject: &str, at| {
            let issued = tickets.issue(&store, principal(subject), TicketPurpose::Events, at).await;
            issued.map_err(|refusal| refusal.code)
        };
        for _ in 0..MAX_TICKETS_PER_PRINCIPAL {
            issue("alice", now).await.unwrap();
        }
        assert_eq!(issue("alice", now).await, Err(ErrorCode::LimitReached));
        issue("bob", now).await.unwrap();
        assert_eq!(issue("carol", now).await, Err(ErrorCode::LimitReached));
        issue("carol", now + TICKET_LIFETIME).await.unwrap();
        tickets.sweep(now + 2 * TICKET_LIFETIME);
        assert!(tickets.unused.lock().is_empty() && tickets.counts.keys() == 0);
    }
}
