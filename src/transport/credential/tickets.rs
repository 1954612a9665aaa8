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

use crate::broker::{Principal, SharedStore};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::endpoints::TicketPurpose;

pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// Unused tickets of one principal, so that one cannot use up the tickets of all.
const MAX_TICKETS_PER_PRINCIPAL: usize = 100;

/// The unused tickets of this node.
pub struct Tickets {
    capacity: usize,
    live: Mutex<LiveTickets>,
}

#[derive(Default)]
struct LiveTickets {
    tickets: HashMap<[u8; 32], Ticket>,
    /// Their number by issuer and subject.
    per_principal: HashMap<(Arc<str>, Arc<str>), usize>,
}

struct Ticket {
    principal: Arc<Principal>,
    purpose: TicketPurpose,
    expires: Instant,
}

impl Tickets {
    /// Keeps at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, live: Mutex::default() }
    }

    pub fn issue(&self, principal: Arc<Principal>, purpose: TicketPurpose, now: Instant) -> Result<String, Refusal> {
        let full = |detail: &'static str| Refusal::new(ErrorCode::LimitReached, detail).retry_after(TICKET_LIFETIME);
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::from(ErrorCode::Internal))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let mut live = self.live.lock();
        if live.tickets.len() >= self.capacity {
            live.remove_expired(now);
        }
        if live.tickets.len() >= self.capacity {
            return Err(full("ticket limit reached (limits.tickets)"));
        }
        let count = live.per_principal.entry(owner(&principal)).or_default();
        if *count >= MAX_TICKETS_PER_PRINCIPAL {
            return Err(full("the principal has too many unused tickets; each is valid for 30 seconds"));
        }
        *count += 1;
        live.tickets.insert(digest(&text), Ticket { principal, purpose, expires: now + TICKET_LIFETIME });
        Ok(text)
    }

    /// The principal of a ticket. The ticket is invalid afterwards, whatever the result.
    pub fn redeem(&self, text: &str, purpose: TicketPurpose, now: Instant) -> Option<Arc<Principal>> {
        let mut live = self.live.lock();
        let ticket = live.tickets.remove(&digest(text))?;
        live.release(&ticket);
        (ticket.purpose == purpose && now < ticket.expires).then_some(ticket.principal)
    }

    /// Removes expired tickets. Called periodically.
    pub fn sweep(&self, now: Instant) {
        self.live.lock().remove_expired(now);
    }
}

impl LiveTickets {
    fn remove_expired(&mut self, now: Instant) {
        let expired: Vec<_> = self.tickets.extract_if(|_, ticket| ticket.expires <= now).collect();
        expired.iter().for_each(|(_, ticket)| self.release(ticket));
    }

    fn release(&mut self, ticket: &Ticket) {
        let owner = owner(&ticket.principal);
        if let Some(count) = self.per_principal.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.per_principal.remove(&owner);
            }
        }
    }
}

fn owner(principal: &Principal) -> (Arc<str>, Arc<str>) {
    (principal.issuer.clone(), principal.subject.clone())
}

/// Tickets are found by their hash, so the time of a lookup reveals nothing about them.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// A ticket in the shared store.
#[derive(Serialize, Deserialize)]
struct SharedTicket {
    principal: Principal,
    purpose: TicketPurpose,
}

/// Stores a ticket for all nodes.
pub async fn share(
    shared: &dyn SharedStore,
    ticket: &str,
    principal: &Principal,
    purpose: TicketPurpose,
) -> Result<(), Refusal> {
    let value = serde_json::to_vec(&SharedTicket { principal: principal.clone(), purpose });
    let value = value.map_err(|_| Refusal::from(ErrorCode::Internal))?;
    shared.put(&shared_name(ticket), &value, TICKET_LIFETIME).await
}

fn shared_name(ticket: &str) -> String {
    format!("ticket:{}", URL_SAFE_NO_PAD.encode(digest(ticket)))
}

/// The principal of a ticket that any node has issued. The ticket is invalid afterwards.
pub async fn redeem_shared(
    shared: &dyn SharedStore,
    ticket: &str,
    purpose: TicketPurpose,
) -> Result<Option<Arc<Principal>>, Refusal> {
    let Some(value) = shared.get_and_delete(&shared_name(ticket)).await? else { return Ok(None) };
    let ticket = serde_json::from_slice::<SharedTicket>(&value).ok().filter(|ticket| ticket.purpose == purpose);
    Ok(ticket.map(|ticket| Arc::new(ticket.principal)))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn ticket_is_valid_once_for_its_purpose() {
        let (tickets, now) = (Tickets::new(10), Instant::now());
        let issue = || tickets.issue(principal("alice"), TicketPurpose::Subscribe, now).unwrap();
        let ticket = issue();
        assert_eq!(ticket.len(), 43);
        let redeemed =
            tickets.redeem(&ticket, TicketPurpose::Subscribe, now + TICKET_LIFETIME - Duration::from_millis(1));
        assert_eq!(redeemed.map(|principal| principal.subject.to_string()).as_deref(), Some("alice"));
        assert!(tickets.redeem(&ticket, TicketPurpose::Subscribe, now).is_none());
        assert!(tickets.redeem(&issue(), TicketPurpose::Subscribe, now + TICKET_LIFETIME).is_none());
        let other = issue();
        assert!(tickets.redeem(&other, TicketPurpose::Rooms, now).is_none());
        assert!(tickets.redeem(&other, TicketPurpose::Subscribe, now).is_none(), "a failed attempt uses it up");
        assert!(tickets.live.lock().per_principal.is_empty());
    }

    #[test]
    fn tickets_are_limited_per_principal() {
        let (tickets, now) = (Tickets::new(MAX_TICKETS_PER_PRINCIPAL + 1), Instant::now());
        let issue =
            |who: &str, at| tickets.issue(principal(who), TicketPurpose::Events, at).map_err(|refusal| refusal.code);
        for _ in 0..MAX_TICKETS_PER_PRINCIPAL {
            issue("alice", now).unwrap();
        }
        assert_eq!(issue("alice", now), Err(ErrorCode::LimitReached));
        issue("bob", now).unwrap();
        assert_eq!(issue("carol", now), Err(ErrorCode::LimitReached));
        issue("carol", now + TICKET_LIFETIME).unwrap();
        tickets.sweep(now + 2 * TICKET_LIFETIME);
        assert!(tickets.live.lock().tickets.is_empty() && tickets.live.lock().per_principal.is_empty());
    }
}
