//! Replies of subscribers to the publisher, over connections that the publisher opened, and its answers.
//!
//! The subscriber's node keeps a reply and its deadline. If the publisher is on another node, each message to it is a
//! [`RemoteTask`].

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
use crate::protocol::{ChannelName, ErrorCode, Owner, Refusal};

/// After this without `received`, a reply is sent to another connection of the publisher.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Replies that wait for one publisher or for its answer.
    pub max_replies: usize,
    /// Replies of one subscriber's connection, so that it cannot use up the limit of all.
    pub max_replies_per_connection: usize,
    /// Bytes of the replies that wait for one publisher.
    pub max_bytes: usize,
    /// How long a reply waits for an absent publisher, and for its answer.
    pub keep: Duration,
}

/// A cheap handle; every method is synchronous.
#[derive(Clone)]
pub struct Replies(Arc<Inner>);

struct Inner {
    limits: ReplyLimits,
    mailboxes: Mutex<HashMap<Arc<str>, Mailbox>>,
    counters: ReplyCounters,
    /// The queue to other nodes; unset on a single node.
    remote: OnceLock<RemoteQueue>,
}

/// The outcome of a reply that another node keeps.
pub type PendingOutcome = oneshot::Receiver<Result<(), Refusal>>;

struct ReplyCounters {
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
    replies: VecDeque<PendingReply>,
    bytes: usize,
}

/// A reply without an outcome.
struct PendingReply {
    name: Arc<str>,
    /// The frame for the publisher.
    json: Arc<str>,
    from: Arc<Connection>,
    owner: Owner,
    /// The subscription to the channel: without it, the subscriber receives no answer.
    subscriber: Arc<Subscriber>,
    /// The `id` of the subscriber's command.
    id: Option<String>,
    channel: ChannelName,
    wants_answer: bool,
    began: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not sent.
    Waiting,
    /// Sent at a time to the connection with this id, or with `None` to another node.
    Sent(Option<u64>, Instant),
    /// The publisher confirmed it.
    Received,
}

/// A reply from a subscriber.
pub struct NewReply<'a> {
    pub from: &'a Arc<Connection>,
    pub membership: &'a Membership,
    pub principal: Option<&'a Principal>,
    pub id: Option<&'a str>,
    pub channel: &'a ChannelName,
    pub to: &'a Position,
    /// Valid JSON.
    pub data: &'a str,
    pub wants_answer: bool,
}

/// Registers a publisher's connection for replies until it is dropped.
pub struct ReplyInbox {
    replies: Replies,
    publisher: Arc<str>,
    connection: Arc<Connection>,
}

impl Replies {
    /// Registers its metrics with the current recorder.
    pub fn new(limits: ReplyLimits) -> Self {
        let counter = |result: &'static str| counter!("lastmile_replies_total", "result" => result);
        let counters = ReplyCounters {
            received: counter("received"),
            refused: counter("refused"),
            expired: counter("expired"),
            answered: counter("answered"),
        };
        Self(Arc::new(Inner { limits, mailboxes: Mutex::default(), counters, remote: OnceLock::new() }))
    }

    /// Accepts a reply for `publisher`. The subscriber receives `replied` once the publisher confirms it, or an `error`
    /// after [`ReplyLimits::keep`].
    pub fn send(&self, publisher: &Arc<str>, reply: NewReply<'_>, now: Now) -> Result<(), Refusal> {
        let NewReply { from, membership, principal, id, channel, to, data, wants_answer } = reply;
        let number = getrandom::u64().map_err(|_| Refusal::from(ErrorCode::Internal))?;
        let name: Arc<str> = match self.0.remote.get() {
            None => format!("r-{number:016x}"),
            Some(RemoteQueue { node, .. }) => format!("r-{number:016x}-{node}"),
        }
        .into();
        let json: Arc<str> = reply_json(&name, from.id, principal, channel, to, data, now.wall).into();
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        let ReplyLimits { max_replies, max_replies_per_connection, max_bytes, keep: _ } = self.0.limits;
        let owner = principal.map_or(Owner::ANONYMOUS, |who| Owner::of(&who.issuer, &who.subject));
        let from_connection = mailbox.replies.iter().filter(|reply| reply.from.id == from.id).count();
        if from_connection >= max_replies_per_connection
            || !mailbox.has_share(owner, json.len(), &self.0.limits)
            || mailbox.replies.len() >= max_replies
            || mailbox.bytes + json.len() > max_bytes
        {
            self.0.counters.refused.increment(1);
            return Err(Refusal::new(ErrorCode::RateLimited, "reply queue of the publisher is full, retry later"));
        }
        mailbox.bytes += json.len();
        mailbox.replies.push_back(PendingReply {
            name,
            json,
            from: from.clone(),
            owner,
            subscriber: membership.subscriber(),
            id: id.map(str::to_owned),
            channel: channel.clone(),
            wants_answer,
            began: now.monotonic,
            stage: Stage::Waiting,
        });
        mailbox.dispatch(publisher, &self.0, now.monotonic);
        Ok(())
    }

    /// Sends waiting and new replies to a publisher's connection from now on.
    pub fn attach(&self, publisher: Arc<str>, connection: Arc<Connection>) -> ReplyInbox {
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        mailbox.connections.push(connection.clone());
        mailbox.dispatch(&publisher, &self.0, Instant::now());
        if mailbox.connections.len() == 1 {
            self.0.announce_publisher(&publisher);
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

    /// Enables tasks for other nodes. `node` is the name of this node. To be called once; the caller runs the tasks.
    pub fn enable_cluster(&self, node: &str) -> mpsc::UnboundedReceiver<QueuedTask> {
        let (queue, tasks) = RemoteQueue::new(node);
        // A second call is ignored: its receiver ends at once.
        let _ = self.0.remote.set(queue);
        tasks
    }

    /// The publishers with a connection here. To be registered on the node bus every few seconds.
    pub fn publishers(&self) -> Vec<Arc<str>> {
        let mailboxes = self.0.mailboxes.lock();
        let connected = mailboxes.iter().filter(|(_, mailbox)| !mailbox.connections.is_empty());
        connected.map(|(publisher, _)| publisher.clone()).collect()
    }

    /// Whether a publisher has a connection here.
    pub fn has(&self, publisher: &str) -> bool {
        self.0.mailboxes.lock().get(publisher).is_some_and(|mailbox| !mailbox.connections.is_empty())
    }

    /// Sends a reply of another node to its publisher; `false` if it has no connection here.
    pub fn deliver(&self, publisher: &str, json: &str) -> bool {
        let mut mailboxes = self.0.mailboxes.lock();
        let Some(connection) = mailboxes.get_mut(publisher).and_then(Mailbox::connection) else { return false };
        connection.send_text(json);
        true
    }

    /// No node has a connection of the publisher: the reply waits again.
    pub fn requeue(&self, publisher: &str, name: &str) {
        let mut mailboxes = self.0.mailboxes.lock();
        let Some(mailbox) = mailboxes.get_mut(publisher) else { return };
        if let Some(at) = mailbox.find(name)
            && matches!(mailbox.replies[at].stage, Stage::Sent(None, _))
        {
            mailbox.replies[at].stage = Stage::Waiting;
        }
    }

    /// Applies the outcome of a reply that this node keeps.
    pub fn settle(&self, outcome: &ReplyOutcome) -> Result<(), Refusal> {
        let ReplyOutcome { publisher, name, answer } = outcome;
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.get_mut(publisher).ok_or(ErrorCode::ReplyUnknown)?;
        let at = mailbox.find(name).ok_or(ErrorCode::ReplyUnknown)?;
        mailbox.replies[at].confirm(&self.0.counters);
        if answer.is_none() && mailbox.replies[at].wants_answer {
            return Ok(());
        }
        let (Some(reply), Some(data)) = (mailbox.take(at), answer) else { return Ok(()) };
        if reply.from.phase() != Phase::Open || !reply.subscriber.is_active() {
            return Err(Refusal::new(ErrorCode::ReplyUnknown, "subscriber is not connected"));
        }
        self.0.counters.answered.increment(1);
        reply.from.send_text(&answer_json(reply.id.as_deref(), &reply.channel, publisher, data));
        Ok(())
    }
}

impl Inner {
    /// Queues an update of the registration of a publisher. If the queue is full, the periodic renewal corrects it.
    fn announce_publisher(&self, publisher: &Arc<str>) {
        if let Some(queue) = self.remote.get() {
            queue.add(RemoteTask::Publisher(publisher.clone()));
        }
    }
}

impl Mailbox {
    /// Whether the replies of a person leave room for those of others. Clients without a token share one half.
    fn has_share(&self, owner: Owner, bytes: usize, limits: &ReplyLimits) -> bool {
        let ReplyLimits { max_replies, max_replies_per_connection, max_bytes, keep: _ } = *limits;
        let (max_count, max_bytes) = match owner {
            Owner::ANONYMOUS => (max_replies.div_ceil(2), max_bytes / 2),
            _ => (max_replies / 10, max_bytes / 4),
        };
        let of_owner = self.replies.iter().filter(|reply| reply.owner == owner);
        let (count, sum) = of_owner.fold((0, 0), |(count, sum), reply| (count + 1, sum + reply.json.len()));
        // A few connections of one person are not held against it.
        count == 0 || (count < max_count.max(4 * max_replies_per_connection) && sum + bytes <= max_bytes)
    }

    /// The newest open connection of the publisher: an older one may be dead without notice.
    fn connection(&mut self) -> Option<Arc<Connection>> {
        self.connections.retain(|connection| connection.phase() == Phase::Open);
        self.connections.last().cloned()
    }

    /// Sends waiting replies to a connection of the publisher, here or on another node.
    fn dispatch(&mut self, publisher: &Arc<str>, inner: &Inner, now: Instant) {
        let (connection, queue) = (self.connection(), inner.remote.get());
        for reply in self.replies.iter_mut().filter(|reply| reply.stage == Stage::Waiting) {
            let PendingReply { name, json, .. } = &*reply;
            match (&connection, queue) {
                (Some(connection), _) => {
                    connection.send_text(json);
                }
                // A task for this reply is still queued: it holds a reference to the JSON.
                (None, Some(_)) if Arc::strong_count(json) > 1 => continue,
                (None, Some(queue)) => {
                    let (publisher, name, json) = (publisher.clone(), name.clone(), json.clone());
                    if !queue.add(RemoteTask::Forward { publisher, name, json }) {
                        return;
                    }
                }
                (None, None) => return,
            }
            reply.stage = Stage::Sent(connection.as_ref().map(|connection| connection.id), now);
        }
    }

    /// Sends replies without a confirmation to the next connection. Waiting replies are tried again too: the publisher
    /// may be on another node by now.
    fn redispatch_overdue(&mut self, publisher: &Arc<str>, inner: &Inner, now: Instant) {
        let is_late = |reply: &PendingReply| matches!(reply.stage, Stage::Sent(_, at) if now.duration_since(at) >= RECEIPT_TIMEOUT);
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

    fn take(&mut self, at: usize) -> Option<PendingReply> {
        let taken = self.replies.remove(at)?;
        self.bytes -= taken.json.len();
        Some(taken)
    }
}

impl PendingReply {
    fn respond(&self, reply: &ServerFrame<'_>) {
        self.from.send_text(&reply.to_json());
    }

    fn confirm(&mut self, counters: &ReplyCounters) {
        if self.stage != Stage::Received {
            self.stage = Stage::Received;
            counters.received.increment(1);
            self.respond(&ServerFrame::Replied { id: self.id.as_deref() });
        }
    }

    fn expire(&self, counters: &ReplyCounters) {
        let code = match self.stage {
            Stage::Received if self.wants_answer => ErrorCode::AnswerTimeout,
            Stage::Received => return,
            _ => ErrorCode::PublisherAbsent,
        };
        counters.expired.increment(1);
        self.respond(&ServerFrame::error(self.id.as_deref(), &code.into()));
    }
}

impl ReplyInbox {
    /// The publisher confirms a reply.
    pub fn received(&self, name: &str) -> Result<Option<PendingOutcome>, Refusal> {
        self.settle(name, None)
    }

    /// The publisher answers a reply. `data` is valid JSON.
    pub fn answer(&self, name: &str, data: &str) -> Result<Option<PendingOutcome>, Refusal> {
        self.settle(name, Some(data.into()))
    }

    /// Applies the outcome here, or queues it for the node that keeps the reply.
    fn settle(&self, name: &str, answer: Option<Box<str>>) -> Result<Option<PendingOutcome>, Refusal> {
        let outcome = ReplyOutcome { publisher: self.publisher.clone(), name: name.into(), answer };
        let queue = self.replies.0.remote.get();
        let Some((queue, node)) = queue.and_then(|queue| Some((queue, queue.owner_node(name)?))) else {
            return self.replies.settle(&outcome).map(|()| None);
        };
        let (done, pending) = oneshot::channel();
        if !queue.add(RemoteTask::Settle { node, outcome, done }) {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "inter-node queue full, retry later"));
        }
        Ok(Some(pending))
    }
}

impl Drop for ReplyInbox {
    /// Unconfirmed replies of this connection go to another one, or wait for the publisher to reconnect.
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
            self.replies.0.announce_publisher(&self.publisher);
        }
    }
}

/// The frame for the publisher.
fn reply_json(
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

/// The frame for the subscriber. The publisher's JSON is copied byte for byte.
fn answer_json(id: Option<&str>, channel: &ChannelName, publisher: &str, data: &str) -> String {
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
