//! What subscribers reply, on its way to the publisher over the connection that the publisher opened outward, and
//! what the publisher answers to one of them. Nothing here opens a connection.
//!
//! A reply is kept, and its time is watched, on the subscriber's node. Where the publisher is on another node, what has to
//! go there is an [`RemoteTask`].

pub mod outbound;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, counter};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::outbound::RemoteQueue;
pub use self::outbound::{QueuedTask, RemoteTask, ReplyOutcome};
use super::channel::fanout::Subscriber;
use super::{Connection, Membership, Now, Phase, Principal};
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::json::push_json_string;
use crate::protocol::publication::Position;
use crate::protocol::{ChannelName, ErrorCode, Refusal};

/// A publisher's connection that does not say `received` within this is passed over for another one.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Replies that wait for one publisher, or for its answer.
    pub max_replies: usize,
    /// Those of one subscriber's connection, so that one cannot take the place of all.
    pub max_replies_per_connection: usize,
    /// Their bytes.
    pub max_bytes: usize,
    /// How long a reply is kept for a publisher that is away, and how long its answer may take.
    pub keep: Duration,
}

/// A cheap handle; every method is synchronous.
#[derive(Clone)]
pub struct Replies(Arc<Inner>);

struct Inner {
    limits: ReplyLimits,
    mailboxes: Mutex<HashMap<Arc<str>, Mailbox>>,
    counters: Counters,
    /// For other nodes, where there are some.
    remote: OnceLock<RemoteQueue>,
}

/// Whether a reply was settled, if that is not known at once.
pub type PendingOutcome = oneshot::Receiver<Result<(), Refusal>>;

struct Counters {
    received: Counter,
    refused: Counter,
    expired: Counter,
    answered: Counter,
}

/// The replies of one publisher.
#[derive(Default)]
struct Mailbox {
    connections: Vec<Arc<Connection>>,
    /// Oldest first.
    replies: VecDeque<Pending>,
    bytes: usize,
}

/// A reply that is not settled.
struct Pending {
    name: Arc<str>,
    /// What the publisher gets.
    json: Arc<str>,
    from: Arc<Connection>,
    /// Its subscription to the channel: who lost it gets no answer.
    member: Arc<Subscriber>,
    /// What the subscriber called its command.
    id: Option<String>,
    channel: ChannelName,
    wants_answer: bool,
    began: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has it.
    Waiting,
    /// Written to the connection with this number, or on its way to another node.
    Sent(Option<u64>, Instant),
    /// The publisher has it.
    Received,
}

/// What a subscriber sends.
pub struct NewReply<'a> {
    pub from: &'a Arc<Connection>,
    pub membership: &'a Membership,
    pub principal: Option<&'a Principal>,
    pub id: Option<&'a str>,
    pub channel: &'a ChannelName,
    pub to: &'a Position,
    /// Checked JSON.
    pub data: &'a str,
    pub wants_answer: bool,
}

/// A publisher's connection that takes replies, until it is dropped.
pub struct ReplyInbox {
    replies: Replies,
    publisher: Arc<str>,
    connection: Arc<Connection>,
}

impl Replies {
    /// Registers its metrics with the current recorder.
    pub fn new(limits: ReplyLimits) -> Self {
        let counter = |result: &'static str| counter!("lastmile_replies_total", "result" => result);
        let counters = Counters {
            received: counter("received"),
            refused: counter("refused"),
            expired: counter("expired"),
            answered: counter("answered"),
        };
        Self(Arc::new(Inner { limits, mailboxes: Mutex::default(), counters, remote: OnceLock::new() }))
    }

    /// Takes a reply for `publisher`. The subscriber hears `replied` once the publisher says that it has it, or an
    /// `error` when nobody took it in time.
    pub fn send(&self, publisher: &Arc<str>, reply: NewReply<'_>, now: Now) -> Result<(), Refusal> {
        let NewReply { from, membership, principal, id, channel, to, data, wants_answer } = reply;
        let number = getrandom::u64().map_err(|_| Refusal::from(ErrorCode::Internal))?;
        let name: Arc<str> = match self.0.remote.get() {
            None => format!("r-{number:016x}"),
            Some(RemoteQueue { node, .. }) => format!("r-{number:016x}-{node}"),
        }
        .into();
        let json: Arc<str> = json(&name, from.id, principal, channel, to, data, now.wall).into();
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        let ReplyLimits { max_replies, max_replies_per_connection, max_bytes, keep: _ } = self.0.limits;
        let own = mailbox.replies.iter().filter(|reply| reply.from.id == from.id).count();
        if own >= max_replies_per_connection
            || mailbox.replies.len() >= max_replies
            || mailbox.bytes + json.len() > max_bytes
        {
            self.0.counters.refused.increment(1);
            return Err(Refusal::new(ErrorCode::RateLimited, "too many replies wait for this publisher"));
        }
        mailbox.bytes += json.len();
        mailbox.replies.push_back(Pending {
            name,
            json,
            from: from.clone(),
            member: membership.member(),
            id: id.map(str::to_owned),
            channel: channel.clone(),
            wants_answer,
            began: now.monotonic,
            stage: Stage::Waiting,
        });
        mailbox.dispatch(publisher, &self.0, now.monotonic);
        Ok(())
    }

    /// A publisher's connection from now on takes what waits and what comes.
    pub fn attach(&self, publisher: Arc<str>, connection: Arc<Connection>) -> ReplyInbox {
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        mailbox.connections.push(connection.clone());
        mailbox.dispatch(&publisher, &self.0, Instant::now());
        if mailbox.connections.len() == 1 {
            self.0.tell_of(&publisher);
        }
        ReplyInbox { replies: self.clone(), publisher, connection }
    }

    /// To be called once a second.
    pub fn sweep(&self, now: Instant) {
        let Inner { limits, mailboxes, counters, .. } = &*self.0;
        mailboxes.lock().retain(|publisher, mailbox| {
            while let Some(oldest) = mailbox.replies.front()
                && now.duration_since(oldest.began) >= limits.keep
            {
                if let Some(expired) = mailbox.replies.pop_front() {
                    mailbox.bytes -= expired.json.len();
                    expired.expire(counters);
                }
            }
            mailbox.redispatch_overdue(publisher, &self.0, now);
            !(mailbox.replies.is_empty() && mailbox.connections.is_empty())
        });
    }

    /// From now on there are other nodes, and `node` is the name of this one. To be called once; the errands are the
    /// caller's to do.
    pub fn enable_cluster(&self, node: &str) -> mpsc::UnboundedReceiver<QueuedTask> {
        let (errands, taker) = RemoteQueue::new(node);
        // Set before: those errands have their taker, and this one ends at once.
        let _ = self.0.remote.set(errands);
        taker
    }

    /// The publishers that have a connection here. To be told to other nodes every few seconds.
    pub fn publishers(&self) -> Vec<Arc<str>> {
        let mailboxes = self.0.mailboxes.lock();
        let here = mailboxes.iter().filter(|(_, mailbox)| !mailbox.connections.is_empty());
        here.map(|(publisher, _)| publisher.clone()).collect()
    }

    /// Whether a publisher has a connection here.
    pub fn has(&self, publisher: &str) -> bool {
        self.0.mailboxes.lock().get(publisher).is_some_and(|mailbox| !mailbox.connections.is_empty())
    }

    /// Shows a reply of another node to its publisher; `false` if it has no connection here.
    pub fn deliver(&self, publisher: &str, json: &str) -> bool {
        let mut mailboxes = self.0.mailboxes.lock();
        let Some(connection) = mailboxes.get_mut(publisher).and_then(Mailbox::connection) else { return false };
        connection.send_text(json);
        true
    }

    /// No node has the publisher of a reply: it waits on.
    pub fn requeue(&self, publisher: &str, name: &str) {
        let mut mailboxes = self.0.mailboxes.lock();
        let Some(mailbox) = mailboxes.get_mut(publisher) else { return };
        if let Some(at) = mailbox.find(name)
            && matches!(mailbox.replies[at].stage, Stage::Sent(None, _))
        {
            mailbox.replies[at].stage = Stage::Waiting;
        }
    }

    /// Settles a reply that is kept here.
    pub fn settle(&self, settlement: &ReplyOutcome) -> Result<(), Refusal> {
        let ReplyOutcome { publisher, name, answer } = settlement;
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.get_mut(publisher).ok_or(ErrorCode::ReplyUnknown)?;
        let at = mailbox.find(name).ok_or(ErrorCode::ReplyUnknown)?;
        mailbox.replies[at].confirm(&self.0.counters);
        if answer.is_none() && mailbox.replies[at].wants_answer {
            return Ok(());
        }
        let (Some(reply), Some(data)) = (mailbox.take(at), answer) else { return Ok(()) };
        if reply.from.phase() != Phase::Open || !reply.member.is_active() {
            return Err(Refusal::new(ErrorCode::ReplyUnknown, "the subscriber is gone"));
        }
        self.0.counters.answered.increment(1);
        reply.from.send_text(&json_of_answer(reply.id.as_deref(), &reply.channel, publisher, data));
        Ok(())
    }
}

impl Inner {
    /// Other nodes are told that a publisher came or went. If too much waits, they are told within seconds.
    fn tell_of(&self, publisher: &Arc<str>) {
        if let Some(errands) = self.remote.get() {
            errands.add(RemoteTask::Publisher(publisher.clone()));
        }
    }
}

impl Mailbox {
    /// A connection of the publisher: the newest, as an older one may be gone without having said so.
    fn connection(&mut self) -> Option<Arc<Connection>> {
        self.connections.retain(|connection| connection.phase() == Phase::Open);
        self.connections.last().cloned()
    }

    /// Writes what nobody has to a connection of the publisher, if need be on another node.
    fn dispatch(&mut self, publisher: &Arc<str>, inner: &Inner, now: Instant) {
        let (connection, errands) = (self.connection(), inner.remote.get());
        for reply in self.replies.iter_mut().filter(|reply| reply.stage == Stage::Waiting) {
            let Pending { name, json, .. } = &*reply;
            match (&connection, errands) {
                (Some(connection), _) => {
                    connection.send_text(json);
                }
                // An errand of this reply has the JSON as well, until it is done.
                (None, Some(_)) if Arc::strong_count(json) > 1 => continue,
                (None, Some(errands)) => {
                    let (publisher, name, json) = (publisher.clone(), name.clone(), json.clone());
                    if !errands.add(RemoteTask::Forward { publisher, name, json }) {
                        return;
                    }
                }
                (None, None) => return,
            }
            reply.stage = Stage::Sent(connection.as_ref().map(|connection| connection.id), now);
        }
    }

    /// Takes back what a connection has had for too long without a word, and gives it to the next one. What waits may
    /// find its publisher on another node by now.
    fn redispatch_overdue(&mut self, publisher: &Arc<str>, inner: &Inner, now: Instant) {
        let is_late =
            |reply: &Pending| matches!(reply.stage, Stage::Sent(_, at) if now.duration_since(at) >= RECEIPT_TIMEOUT);
        if !self.replies.iter().any(is_late) {
            self.dispatch(publisher, inner, now);
            return;
        }
        for reply in self.replies.iter_mut().filter(|reply| is_late(reply)) {
            reply.stage = Stage::Waiting;
        }
        if self.connections.len() > 1 {
            self.connections.rotate_right(1);
        }
        self.dispatch(publisher, inner, now);
    }

    fn find(&mut self, name: &str) -> Option<usize> {
        self.replies.iter().position(|reply| &*reply.name == name)
    }

    fn take(&mut self, at: usize) -> Option<Pending> {
        let taken = self.replies.remove(at)?;
        self.bytes -= taken.json.len();
        Some(taken)
    }
}

impl Pending {
    fn tell(&self, reply: &ServerFrame<'_>) {
        self.from.send_text(&reply.to_json());
    }

    fn confirm(&mut self, counters: &Counters) {
        if self.stage != Stage::Received {
            self.stage = Stage::Received;
            counters.received.increment(1);
            self.tell(&ServerFrame::Replied { id: self.id.as_deref() });
        }
    }

    fn expire(&self, counters: &Counters) {
        let code = match self.stage {
            Stage::Received if self.wants_answer => ErrorCode::AnswerTimeout,
            Stage::Received => return,
            _ => ErrorCode::PublisherAbsent,
        };
        counters.expired.increment(1);
        self.tell(&ServerFrame::error(self.id.as_deref(), &code.into()));
    }
}

impl ReplyInbox {
    /// The publisher has a reply.
    pub fn received(&self, name: &str) -> Result<Option<PendingOutcome>, Refusal> {
        self.settle(name, None)
    }

    /// The publisher answers whoever replied. `data` is checked JSON.
    pub fn answer(&self, name: &str, data: &str) -> Result<Option<PendingOutcome>, Refusal> {
        self.settle(name, Some(data.into()))
    }

    /// Here and at once, or on the node that keeps the reply.
    fn settle(&self, name: &str, answer: Option<Box<str>>) -> Result<Option<PendingOutcome>, Refusal> {
        let settlement = ReplyOutcome { publisher: self.publisher.clone(), name: name.into(), answer };
        let errands = self.replies.0.remote.get();
        let Some((errands, node)) = errands.and_then(|errands| Some((errands, errands.owner_node(name)?))) else {
            return self.replies.settle(&settlement).map(|()| None);
        };
        let (done, settling) = oneshot::channel();
        if !errands.add(RemoteTask::Settle { node, settlement, done }) {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "too much waits for other nodes; try again later"));
        }
        Ok(Some(settling))
    }
}

impl Drop for ReplyInbox {
    /// What this connection had without saying so goes to another one, or waits for the publisher to come back.
    fn drop(&mut self) {
        let mut mailboxes = self.replies.0.mailboxes.lock();
        let Some(mailbox) = mailboxes.get_mut(&self.publisher) else { return };
        mailbox.connections.retain(|connection| connection.id != self.connection.id);
        for reply in &mut mailbox.replies {
            if matches!(reply.stage, Stage::Sent(Some(to), _) if to == self.connection.id) {
                reply.stage = Stage::Waiting;
            }
        }
        mailbox.dispatch(&self.publisher, &self.replies.0, Instant::now());
        if mailbox.connections.is_empty() {
            self.replies.0.tell_of(&self.publisher);
        }
    }
}

/// What the publisher gets.
fn json(
    name: &str,
    connection: u64,
    principal: Option<&Principal>,
    channel: &ChannelName,
    to: &Position,
    data: &str,
    time: jiff::Timestamp,
) -> String {
    let mut json = format!(r#"{{"type":"reply","reply":"{name}","channel":"#);
    push_json_string(&mut json, channel.as_str());
    json.push_str(&format!(
        r#","to":"{}","time":"{time:.3}","connection":"c-{connection:x}","principal":"#,
        to.message_id()
    ));
    match principal {
        None => json.push_str("null"),
        Some(principal) => {
            json.push_str(r#"{"issuer":"#);
            push_json_string(&mut json, &principal.issuer);
            json.push_str(r#","subject":"#);
            push_json_string(&mut json, &principal.subject);
            json.push('}');
        }
    }
    json.push_str(r#","data":"#);
    json.push_str(data);
    json.push('}');
    json
}

/// What the subscriber gets. The publisher's JSON goes byte for byte.
fn json_of_answer(id: Option<&str>, channel: &ChannelName, publisher: &str, data: &str) -> String {
    let mut json = String::from(r#"{"type":"answer","#);
    if let Some(id) = id {
        json.push_str(r#""id":"#);
        push_json_string(&mut json, id);
        json.push(',');
    }
    json.push_str(r#""channel":"#);
    push_json_string(&mut json, channel.as_str());
    json.push_str(r#","publisher":"#);
    push_json_string(&mut json, publisher);
    json.push_str(r#","data":"#);
    json.push_str(data);
    json.push('}');
    json
}
