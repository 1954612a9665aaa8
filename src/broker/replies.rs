//! What subscribers reply, on its way to the publisher over the connection that the publisher opened outward, and
//! what the publisher answers to one of them. Nothing here opens a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{Counter, counter};
use parking_lot::Mutex;

use super::fanout::Member;
use super::{Connection, Membership, Now, Phase, Principal};
use crate::protocol::publication::{Position, push_json_string};
use crate::protocol::reply::Reply;
use crate::protocol::{ChannelName, Code, Refusal, websocket};

/// A publisher's connection that does not say `received` within this is passed over for another one.
const PATIENCE: Duration = Duration::from_secs(5);

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
}

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
    name: String,
    frame: Bytes,
    from: Arc<Connection>,
    /// Its subscription to the channel: who lost it gets no answer.
    member: Arc<Member>,
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
    /// Written to the connection with this number.
    Sent(u64, Instant),
    /// The publisher has it.
    Received,
}

/// What a subscriber sends.
pub struct Outward<'a> {
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
pub struct Recipient {
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
        Self(Arc::new(Inner { limits, mailboxes: Mutex::default(), counters }))
    }

    /// Takes a reply for `publisher`. The subscriber hears `replied` once the publisher says that it has it, or an
    /// `error` when nobody took it in time.
    pub fn send(&self, publisher: &Arc<str>, reply: Outward<'_>, now: Now) -> Result<(), Refusal> {
        let Outward { from, membership, principal, id, channel, to, data, wants_answer } = reply;
        let number = getrandom::u64().map_err(|_| Refusal::from(Code::Internal))?;
        let name = format!("r-{number:016x}");
        let frame = frame(&name, from.id, principal, channel, to, data, now.wall);
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        let ReplyLimits { max_replies, max_replies_per_connection, max_bytes, keep: _ } = self.0.limits;
        let own = mailbox.replies.iter().filter(|reply| reply.from.id == from.id).count();
        if own >= max_replies_per_connection
            || mailbox.replies.len() >= max_replies
            || mailbox.bytes + frame.len() > max_bytes
        {
            self.0.counters.refused.increment(1);
            return Err(Refusal::new(Code::RateLimited, "too many replies wait for this publisher"));
        }
        mailbox.bytes += frame.len();
        mailbox.replies.push_back(Pending {
            name,
            frame,
            from: from.clone(),
            member: membership.member(),
            id: id.map(str::to_owned),
            channel: channel.clone(),
            wants_answer,
            began: now.steady,
            stage: Stage::Waiting,
        });
        mailbox.hand_out(now.steady);
        Ok(())
    }

    /// A publisher's connection from now on takes what waits and what comes.
    pub fn attach(&self, publisher: Arc<str>, connection: Arc<Connection>) -> Recipient {
        let mut mailboxes = self.0.mailboxes.lock();
        let mailbox = mailboxes.entry(publisher.clone()).or_default();
        mailbox.connections.push(connection.clone());
        mailbox.hand_out(Instant::now());
        Recipient { replies: self.clone(), publisher, connection }
    }

    /// To be called once a second.
    pub fn sweep(&self, now: Instant) {
        let Inner { limits, mailboxes, counters } = &*self.0;
        mailboxes.lock().retain(|_, mailbox| {
            while let Some(oldest) = mailbox.replies.front()
                && now.duration_since(oldest.began) >= limits.keep
            {
                if let Some(expired) = mailbox.replies.pop_front() {
                    mailbox.bytes -= expired.frame.len();
                    expired.expire(counters);
                }
            }
            mailbox.pass_on(now);
            !(mailbox.replies.is_empty() && mailbox.connections.is_empty())
        });
    }
}

impl Mailbox {
    /// Writes what nobody has to a connection of the publisher.
    fn hand_out(&mut self, now: Instant) {
        self.connections.retain(|connection| connection.phase() == Phase::Open);
        // The newest: an older one may be gone without having said so.
        let Some(connection) = self.connections.last() else { return };
        for reply in self.replies.iter_mut().filter(|reply| reply.stage == Stage::Waiting) {
            connection.send(&reply.frame);
            reply.stage = Stage::Sent(connection.id, now);
        }
    }

    /// Takes back what a connection has had for too long without a word, and gives it to the next one.
    fn pass_on(&mut self, now: Instant) {
        let is_late = |reply: &Pending| matches!(reply.stage, Stage::Sent(_, at) if now.duration_since(at) >= PATIENCE);
        if !self.replies.iter().any(is_late) {
            return;
        }
        for reply in self.replies.iter_mut().filter(|reply| is_late(reply)) {
            reply.stage = Stage::Waiting;
        }
        if self.connections.len() > 1 {
            self.connections.rotate_right(1);
        }
        self.hand_out(now);
    }

    fn find(&mut self, name: &str) -> Option<usize> {
        self.replies.iter().position(|reply| reply.name == name)
    }

    fn take(&mut self, at: usize) -> Option<Pending> {
        let taken = self.replies.remove(at)?;
        self.bytes -= taken.frame.len();
        Some(taken)
    }
}

impl Pending {
    fn tell(&self, reply: &Reply<'_>) {
        self.from.send_text(&reply.to_json());
    }

    fn confirm(&mut self, counters: &Counters) {
        if self.stage != Stage::Received {
            self.stage = Stage::Received;
            counters.received.increment(1);
            self.tell(&Reply::Replied { id: self.id.as_deref() });
        }
    }

    fn expire(&self, counters: &Counters) {
        let code = match self.stage {
            Stage::Received if self.wants_answer => Code::AnswerTimeout,
            Stage::Received => return,
            _ => Code::PublisherAbsent,
        };
        counters.expired.increment(1);
        self.tell(&Reply::error(self.id.as_deref(), &code.into()));
    }
}

impl Recipient {
    /// The publisher has a reply.
    pub fn received(&self, name: &str) -> Result<(), Refusal> {
        self.with(|mailbox, counters| {
            let at = mailbox.find(name).ok_or(Code::ReplyUnknown)?;
            mailbox.replies[at].confirm(counters);
            if !mailbox.replies[at].wants_answer {
                mailbox.take(at);
            }
            Ok(())
        })
    }

    /// The publisher answers whoever replied. `data` is checked JSON.
    pub fn answer(&self, name: &str, data: &str) -> Result<(), Refusal> {
        self.with(|mailbox, counters| {
            let at = mailbox.find(name).ok_or(Code::ReplyUnknown)?;
            mailbox.replies[at].confirm(counters);
            let Some(reply) = mailbox.take(at) else { return Ok(()) };
            if reply.from.phase() != Phase::Open || !reply.member.is_active() {
                return Err(Refusal::new(Code::ReplyUnknown, "the subscriber is gone"));
            }
            counters.answered.increment(1);
            reply.from.send_text(&answer(reply.id.as_deref(), &reply.channel, &self.publisher, data));
            Ok(())
        })
    }

    fn with(&self, act: impl FnOnce(&mut Mailbox, &Counters) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut mailboxes = self.replies.0.mailboxes.lock();
        let mailbox = mailboxes.get_mut(&self.publisher).ok_or(Code::ReplyUnknown)?;
        act(mailbox, &self.replies.0.counters)
    }
}

impl Drop for Recipient {
    /// What this connection had without saying so goes to another one, or waits for the publisher to come back.
    fn drop(&mut self) {
        let mut mailboxes = self.replies.0.mailboxes.lock();
        let Some(mailbox) = mailboxes.get_mut(&self.publisher) else { return };
        mailbox.connections.retain(|connection| connection.id != self.connection.id);
        for reply in &mut mailbox.replies {
            if matches!(reply.stage, Stage::Sent(to, _) if to == self.connection.id) {
                reply.stage = Stage::Waiting;
            }
        }
        mailbox.hand_out(Instant::now());
    }
}

/// What the publisher gets.
fn frame(
    name: &str,
    connection: u64,
    principal: Option<&Principal>,
    channel: &ChannelName,
    to: &Position,
    data: &str,
    time: jiff::Timestamp,
) -> Bytes {
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
    websocket::text_frame(json.as_bytes())
}

/// What the subscriber gets. The publisher's JSON goes byte for byte.
fn answer(id: Option<&str>, channel: &ChannelName, publisher: &str, data: &str) -> String {
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
