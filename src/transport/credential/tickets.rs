//! Tickets: `POST /v1/tickets` turns a credential into a `?ticket=` for clients that can set no header.
//!
//! A ticket is good once, for thirty seconds, for one principal and one family of paths. Only its hash is kept, so that
//! memory that leaks opens nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Buf;
use futures_util::Stream;
use http::{StatusCode, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use warp::Reply;

use crate::broker::channel::session::rfc3339;
use crate::broker::{Now, Principal, SharedStore};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential;
use crate::transport::endpoints::TicketPurpose;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::publish::read_body;
use crate::transport::state::AppState;

const LIFETIME: Duration = Duration::from_secs(30);

/// Live tickets of one principal, so that nobody can use up everybody's.
const MAX_PER_PRINCIPAL: usize = 100;

/// A purpose is all that a body says.
const MAX_BODY_BYTES: usize = 256;

/// The tickets that were not used yet.
pub struct Tickets {
    capacity: usize,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    tickets: HashMap<[u8; 32], Ticket>,
    /// How many each principal has, by issuer and subject.
    held: HashMap<(Arc<str>, Arc<str>), usize>,
}

struct Ticket {
    principal: Arc<Principal>,
    purpose: TicketPurpose,
    until: Instant,
}

impl Tickets {
    /// Keeps at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, live: Mutex::default() }
    }

    pub fn issue(&self, principal: Arc<Principal>, purpose: TicketPurpose, now: Instant) -> Result<String, Refusal> {
        let full = |detail: &'static str| Refusal::new(ErrorCode::LimitReached, detail).retry_after(LIFETIME);
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::from(ErrorCode::Internal))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let mut live = self.live.lock();
        if live.tickets.len() >= self.capacity {
            live.forget(now);
        }
        if live.tickets.len() >= self.capacity {
            return Err(full("there are as many unused tickets as may be"));
        }
        let held = live.held.entry(owner(&principal)).or_default();
        if *held >= MAX_PER_PRINCIPAL {
            return Err(full("use the tickets that you have; each is good for 30 seconds"));
        }
        *held += 1;
        live.tickets.insert(digest(&text), Ticket { principal, purpose, until: now + LIFETIME });
        Ok(text)
    }

    /// Whose ticket it is. Whatever the answer, it is not good again.
    pub fn redeem(&self, text: &str, purpose: TicketPurpose, now: Instant) -> Option<Arc<Principal>> {
        let mut live = self.live.lock();
        let ticket = live.tickets.remove(&digest(text))?;
        live.give_up(&ticket);
        (ticket.purpose == purpose && now < ticket.until).then_some(ticket.principal)
    }

    /// Forgets those that are over; to be called now and then.
    pub fn sweep(&self, now: Instant) {
        self.live.lock().forget(now);
    }
}

impl Live {
    fn forget(&mut self, now: Instant) {
        let over: Vec<_> = self.tickets.extract_if(|_, ticket| ticket.until <= now).collect();
        over.iter().for_each(|(_, ticket)| self.give_up(ticket));
    }

    fn give_up(&mut self, ticket: &Ticket) {
        let owner = owner(&ticket.principal);
        if let Some(held) = self.held.get_mut(&owner) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&owner);
            }
        }
    }
}

fn owner(principal: &Principal) -> (Arc<str>, Arc<str>) {
    (principal.issuer.clone(), principal.subject.clone())
}

/// Found by its hash: how long a search takes tells nothing of the tickets that are there.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    purpose: TicketPurpose,
}

pub async fn post(
    app: Arc<AppState>,
    call: RequestContext,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    origin::check(&call)?;
    let principal = credential::principal(&app, &call).await?.ok_or(ErrorCode::Unauthenticated)?;
    let body = read_body(&app, body, MAX_BODY_BYTES).await?;
    let malformed =
        || Refusal::new(ErrorCode::Malformed, "not an object with a `purpose` of subscribe, events, poll, rooms");
    let asked: Asked = match body.trim_ascii() {
        [] => Asked::default(),
        body if body.starts_with(b"{") => serde_json::from_slice(body).map_err(|_| malformed())?,
        _ => return Err(malformed()),
    };
    let now = Now::read();
    let ticket = app.tickets.issue(principal.clone(), asked.purpose, now.monotonic)?;
    if let Some(shared) = app.engine.shared_store() {
        let value = serde_json::to_vec(&SharedTicket { principal: (*principal).clone(), purpose: asked.purpose });
        let value = value.map_err(|_| Refusal::from(ErrorCode::Internal))?;
        shared.put(&shared_name(&ticket), &value, LIFETIME).await?;
    }
    let expires = rfc3339(now.unix() + LIFETIME.as_secs());
    let answer = serde_json::json!({ "ticket": ticket, "expires": expires }).to_string();
    let answer = warp::reply::with_header(answer, header::CONTENT_TYPE, "application/json");
    Ok(warp::reply::with_status(answer, StatusCode::CREATED).into_response())
}

/// A ticket as all nodes know it.
#[derive(Serialize, Deserialize)]
struct SharedTicket {
    principal: Principal,
    purpose: TicketPurpose,
}

fn shared_name(ticket: &str) -> String {
    format!("ticket:{}", URL_SAFE_NO_PAD.encode(digest(ticket)))
}

async fn take_shared(
    shared: &dyn SharedStore,
    ticket: &str,
    purpose: TicketPurpose,
) -> Result<Option<Arc<Principal>>, Refusal> {
    let Some(value) = shared.get_and_delete(&shared_name(ticket)).await? else { return Ok(None) };
    let ticket = serde_json::from_slice::<SharedTicket>(&value).ok().filter(|ticket| ticket.purpose == purpose);
    Ok(ticket.map(|ticket| Arc::new(ticket.principal)))
}

/// The principal of the request's `?ticket=`; `None` if it has none.
pub async fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    let pairs = call.query().unwrap_or_default().split('&');
    let mut tickets = pairs.filter_map(|pair| pair.strip_prefix("ticket="));
    let Some(ticket) = tickets.next() else { return Ok(None) };
    let refused = || Refusal::new(ErrorCode::Unauthenticated, "the ticket is not valid here");
    if tickets.next().is_some() {
        return Err(refused());
    }
    let now = Now::read();
    let purpose = call.endpoint().and_then(|endpoint| endpoint.ticket).ok_or_else(refused)?;
    let here = app.tickets.redeem(ticket, purpose, now.monotonic);
    let principal = match app.engine.shared_store() {
        // Here or on any other node, once.
        Some(shared) => take_shared(shared, ticket, purpose).await?,
        None => here,
    };
    let principal = principal.ok_or_else(refused)?;
    let is_alive = now.unix() < principal.expires && app.policy.check(&principal).is_ok();
    if is_alive { Ok(Some(principal)) } else { Err(refused()) }
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
    fn a_ticket_is_good_once_for_its_purpose_and_its_time() {
        let (tickets, now) = (Tickets::new(10), Instant::now());
        let issue = || tickets.issue(principal("alice"), TicketPurpose::Subscribe, now).unwrap();
        let ticket = issue();
        assert_eq!(ticket.len(), 43);
        let redeemed = tickets.redeem(&ticket, TicketPurpose::Subscribe, now + LIFETIME - Duration::from_millis(1));
        assert_eq!(redeemed.map(|who| who.subject.to_string()).as_deref(), Some("alice"));
        assert!(tickets.redeem(&ticket, TicketPurpose::Subscribe, now).is_none());
        assert!(tickets.redeem(&issue(), TicketPurpose::Subscribe, now + LIFETIME).is_none());
        let other = issue();
        assert!(tickets.redeem(&other, TicketPurpose::Rooms, now).is_none());
        assert!(tickets.redeem(&other, TicketPurpose::Subscribe, now).is_none(), "whoever tried has seen it");
        assert!(tickets.live.lock().held.is_empty());
    }

    #[test]
    fn tickets_are_bounded_in_all_and_for_each_principal() {
        let (tickets, now) = (Tickets::new(MAX_PER_PRINCIPAL + 1), Instant::now());
        let issue =
            |who: &str, at| tickets.issue(principal(who), TicketPurpose::Events, at).map_err(|refusal| refusal.code);
        for _ in 0..MAX_PER_PRINCIPAL {
            issue("alice", now).unwrap();
        }
        assert_eq!(issue("alice", now), Err(ErrorCode::LimitReached));
        issue("bob", now).unwrap();
        assert_eq!(issue("carol", now), Err(ErrorCode::LimitReached));
        issue("carol", now + LIFETIME).unwrap();
        tickets.sweep(now + 2 * LIFETIME);
        assert!(tickets.live.lock().tickets.is_empty() && tickets.live.lock().held.is_empty());
    }
}
