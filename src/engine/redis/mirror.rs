//! This node's copy of one channel that somebody here wants: it follows what Redis says, in order and without a gap.
//!
//! A mirror first subscribes and then reads; what comes meanwhile waits. Whenever something is missing it reads again,
//! and where that is gone too, or the epoch is another one, its members are told that their subscription ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::streams::StreamRangeReply;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::Core;
use super::connection::{Connection, away};
use super::keys::SCRIPTS;
use super::subscriber_quota::SubscriberQuota;
use super::wire::{self, Message, Received};
use crate::broker::Now;
use crate::broker::channel::delivery::Deliveries;
use crate::broker::channel::presence::PRESENCE_LEASE;
use crate::engine::backlog::Entry;
use crate::engine::channels::{SharedLog, new_epoch};
use crate::engine::log::{Log, LogState};
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::{ChannelName, CloseReason, Position, Refusal};

/// Publications that are read at once.
const READ_PAGE: usize = 256;

/// Messages that wait while a mirror reads; beyond it, it reads again.
const MAX_BUFFERED_MESSAGES: usize = 4096;

/// What is on its way for so long may have been lost.
const DEGRADED_AFTER: Duration = Duration::from_millis(500);

/// A mirror that reads for so many seconds has no way to what it reads.
const MAX_BEHIND_SWEEPS: u32 = 3;

/// Waits between attempts to read while the connection holds.
const FIRST_READ_RETRY: Duration = Duration::from_millis(50);
const MAX_READ_RETRY: Duration = Duration::from_secs(1);

pub struct Mirror {
    pub channel: ChannelName,
    pub log: SharedLog,
    pub seats: SubscriberQuota,
    progress: Mutex<Progress>,
    is_ready: watch::Sender<bool>,
    /// The log has an epoch that Redis gave it.
    is_loaded: AtomicBool,
    /// When the newest publication was accepted, in milliseconds since 1970; 0 if none came yet.
    newest: AtomicU64,
    /// Something was revealed.
    moved: Notify,
    /// Members were told that they are cut off.
    is_degraded: AtomicBool,
    /// Seconds for which it was not as Redis is.
    behind: AtomicU32,
}

#[derive(Default)]
struct Progress {
    /// A task reads.
    is_reading: bool,
    /// What it read so far may be old.
    again: bool,
    /// What came meanwhile, in its order.
    waiting: VecDeque<Message>,
}

/// The state of a channel, as `attach.lua` gives it.
struct RemoteState {
    epoch: Arc<str>,
    offset: u64,
    age: Duration,
    ended: Option<CloseReason>,
    declared: String,
    /// Of Redis, in milliseconds since 1970.
    time: u64,
    /// Nodes on which somebody watches who listens, with blanks between them.
    watchers: String,
}

impl Mirror {
    pub fn new(channel: ChannelName, log: SharedLog) -> Arc<Self> {
        Arc::new(Self {
            channel,
            log,
            seats: SubscriberQuota::default(),
            progress: Mutex::default(),
            is_ready: watch::Sender::new(false),
            is_loaded: AtomicBool::new(false),
            newest: AtomicU64::new(0),
            moved: Notify::new(),
            is_degraded: AtomicBool::new(false),
            behind: AtomicU32::new(0),
        })
    }

    /// Whether it is as Redis is.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Whether it ever was.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    pub async fn ready(&self) {
        // The sender is this mirror's own.
        let _ = self.is_ready.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    /// Waits until everything is here that Redis has now, so that whoever was told of a publication finds it.
    pub async fn reach(self: &Arc<Self>, core: &Arc<Core>) -> Result<(), Refusal> {
        let mut command = redis::cmd("HMGET");
        command.arg(core.names.state(&self.channel)).arg("epoch").arg("offset");
        let (epoch, offset): (Option<String>, Option<u64>) = core.link.session()?.query(&command).await?;
        loop {
            let moved = self.moved.notified();
            {
                let log = self.log.lock();
                let is_same = epoch.as_deref() == Some(&*log.epoch);
                if log.state == LogState::Removed || (is_same && log.position().offset >= offset.unwrap_or(0)) {
                    return Ok(());
                }
                if !is_same {
                    break;
                }
            }
            if timeout(DEGRADED_AFTER, moved).await.is_err() {
                break;
            }
        }
        self.renew(core);
        self.ready().await;
        Ok(())
    }

    /// Tells members when they are cut off, and when everything came. To be called once a second, by one task.
    pub fn tell_state(&self, core: &Core, is_node_cut_off: bool) {
        let is_ready = self.is_ready();
        let behind = if is_ready { 0 } else { self.behind.load(Ordering::Relaxed) + 1 };
        self.behind.store(behind, Ordering::Relaxed);
        let was_degraded = self.is_degraded.load(Ordering::Relaxed);
        let is_degraded = is_node_cut_off || behind >= MAX_BEHIND_SWEEPS || (was_degraded && !is_ready);
        if self.is_degraded.swap(is_degraded, Ordering::Relaxed) != is_degraded {
            let channel = self.channel.as_str();
            let state = if is_degraded { ServerFrame::Degraded { channel } } else { ServerFrame::Restored { channel } };
            core.channels.hub.send_state(&self.channel, &state);
        }
    }

    /// Reads again, because something may have been missed.
    pub fn renew(self: &Arc<Self>, core: &Arc<Core>) {
        self.renew_locked(core, &mut self.progress.lock());
    }

    fn renew_locked(self: &Arc<Self>, core: &Arc<Core>, progress: &mut Progress) {
        self.is_ready.send_replace(false);
        if std::mem::replace(&mut progress.is_reading, true) {
            progress.again = true;
        } else {
            core.runtime.spawn(self.clone().read(core.clone()));
        }
    }

    /// A message came. Gives what is to be written to members.
    pub fn take(self: &Arc<Self>, core: &Arc<Core>, message: Message) -> Deliveries {
        let mut progress = self.progress.lock();
        if progress.is_reading {
            if progress.waiting.len() < MAX_BUFFERED_MESSAGES {
                progress.waiting.push_back(message);
            } else {
                progress.again = true;
            }
            return Deliveries::default();
        }
        self.apply(core, message).unwrap_or_else(|_missing| {
            self.renew_locked(core, &mut progress);
            Deliveries::default()
        })
    }

    /// Fails if something is missing before the message.
    fn apply(&self, core: &Core, message: Message) -> Result<Deliveries, Gap> {
        match message {
            Message::Publication(received) => {
                let mut log = self.log.lock();
                let position = log.position();
                match log.state {
                    LogState::Removed => return Ok(Deliveries::default()),
                    LogState::Live if *position.epoch == *received.epoch => {}
                    _ => return Err(Gap),
                }
                if received.offset > position.offset + 1 {
                    return Err(Gap);
                }
                Ok(self.reveal(core, &mut log, &received, Instant::now()))
            }
            Message::End { reason: CloseReason::ChannelClosed, .. } => {
                core.channels.remove(&self.channel, &self.log, CloseReason::ChannelClosed);
                Ok(Deliveries::default())
            }
            Message::End { epoch, reason } => {
                let mut log = self.log.lock();
                if *log.epoch != *epoch {
                    return Err(Gap);
                }
                self.end(core, &mut log, reason);
                Ok(Deliveries::default())
            }
            Message::Look => Err(Gap),
            Message::Watch { node } => {
                self.watched_by(core, &node);
                Ok(Deliveries::default())
            }
        }
    }

    /// Shows a publication, unless it is an old one.
    fn reveal(&self, core: &Core, log: &mut Log, received: &Received, at: Instant) -> Deliveries {
        if received.offset <= log.position().offset {
            return Deliveries::default();
        }
        let Some((publication, publisher, bytes)) = received.publication(&self.channel) else {
            return Deliveries::default();
        };
        let rules = core.channels.rules.load();
        let rule = rules.of(&self.channel);
        let kept = (rule.backlog_messages > 0).then(|| Entry { at, form: publication.stored() });
        log.apply_remote(publisher, bytes, kept, rule, Instant::now());
        self.newest.store(received.time, Ordering::Relaxed);
        self.moved.notify_waiters();
        core.channels.hub.fan_out(&self.channel, &Arc::new(publication))
    }

    fn end(&self, core: &Core, log: &mut Log, reason: CloseReason) {
        if log.state == LogState::Live {
            log.end(reason);
            core.channels.end(&self.channel, log, reason);
        }
    }

    /// From now on `node` is told who comes and goes here.
    fn watched_by(&self, core: &Core, node: &str) {
        if node != core.node {
            core.channels.hub.add_remote_watcher(&self.channel, node, Instant::now() + PRESENCE_LEASE);
        }
    }

    async fn read(self: Arc<Self>, core: Arc<Core>) {
        let mut pause = FIRST_READ_RETRY;
        loop {
            {
                let mut progress = self.progress.lock();
                // What comes from here on is not older than what is read.
                (progress.again, progress.waiting) = (false, VecDeque::new());
                if self.log.lock().state == LogState::Removed {
                    progress.is_reading = false;
                    // Whoever waits sees that it is.
                    self.is_ready.send_replace(true);
                    return;
                }
            }
            if self.read_once(&core).await.is_ok() {
                if self.catch_up(&core).await {
                    return;
                }
                continue;
            }
            {
                let mut progress = self.progress.lock();
                if !progress.again && core.link.session().is_err() {
                    // The next connection begins anew.
                    progress.is_reading = false;
                    return;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_READ_RETRY);
        }
    }

    /// Takes what came while it was read. `false` if it has to be read again.
    async fn catch_up(&self, core: &Arc<Core>) -> bool {
        loop {
            let walks = {
                let mut progress = self.progress.lock();
                if progress.again {
                    return false;
                }
                let Some(message) = progress.waiting.pop_front() else {
                    progress.is_reading = false;
                    self.is_loaded.store(true, Ordering::Release);
                    self.is_ready.send_replace(true);
                    return true;
                };
                match self.apply(core, message) {
                    Ok(walks) => walks,
                    Err(Gap) => return false,
                }
            };
            deliver(walks).await;
        }
    }

    async fn read_once(&self, core: &Arc<Core>) -> Result<(), Refusal> {
        let session = core.link.session()?;
        let _permit = core.readers.acquire().await.map_err(|_| away())?;
        {
            // Nobody unsubscribes meanwhile.
            let _subscribing = core.subscribing.read().await;
            session.subscribe(&core.names.pubsub(&self.channel)).await?;
        }
        let known = self.is_loaded().then(|| self.log.lock().position());
        let backlog = core.channels.rules.load().of(&self.channel).backlog_messages;
        let known_to_redis = match &known {
            Some(known) if self.is_replaced(core, &session, known).await? => Some((&*known.epoch, u64::MAX)),
            known => known.as_ref().map(|known| (&*known.epoch, known.offset)),
        };
        let state = self.state(core, &session, known_to_redis).await?;
        state.watchers.split_whitespace().for_each(|node| self.watched_by(core, node));
        let is_same = known.as_ref().is_some_and(|known| known.epoch == state.epoch);
        {
            let mut log = self.log.lock();
            if !is_same {
                if known.is_some() {
                    core.channels.hub.end(&self.channel, CloseReason::EngineUnavailable);
                }
                self.newest.store(0, Ordering::Relaxed);
                log.reset_to(state.epoch.clone(), state.offset.saturating_sub(backlog), Now::read());
            }
            log.declared = wire::limits(&state.declared);
            log.created = created(state.age);
        }
        let from = known.filter(|_| is_same).map_or(state.offset.saturating_sub(backlog), |known| known.offset);
        self.read_missing(core, &session, from, &state).await?;
        let mut log = self.log.lock();
        if log.position().offset < state.offset {
            self.jump(core, &mut log, state.offset);
        }
        if let Some(reason) = state.ended {
            self.end(core, &mut log, reason);
        }
        Ok(())
    }

    /// Whether another publication stands where the newest one of the mirror did: Redis lost it and went on.
    async fn is_replaced(&self, core: &Core, session: &Connection, known: &Position) -> Result<bool, Refusal> {
        let (newest, id) = (self.newest.load(Ordering::Relaxed), format!("{}-0", known.offset));
        if newest == 0 {
            return Ok(false);
        }
        let mut command = redis::cmd("XRANGE");
        command.arg(core.names.stream(&self.channel)).arg(&id).arg(&id);
        let page: StreamRangeReply = session.query(&command).await?;
        let row = page.ids.first().and_then(|row| row.get::<Vec<u8>>("p"));
        Ok(match row.as_deref().and_then(Message::read) {
            Some(Message::Publication(received)) => *received.epoch == *known.epoch && received.time != newest,
            _ => false,
        })
    }

    async fn state(
        &self,
        core: &Core,
        session: &Connection,
        known: Option<(&str, u64)>,
    ) -> Result<RemoteState, Refusal> {
        let (epoch, offset) = known.unwrap_or(("", 0));
        let lifespan = core.channels.rules.load().of(&self.channel).limits.lifespan;
        let mut script = SCRIPTS.attach.prepare_invoke();
        let (names, channel) = (&core.names, &self.channel);
        script.key(names.state(channel)).key(names.stream(channel)).key(names.watch(channel));
        script.arg(&*new_epoch()?).arg(&session.marker).arg(lifespan.as_millis() as u64);
        script.arg(core.idle.as_millis() as u64).arg(names.pubsub(channel)).arg(session.publish());
        script.arg(epoch).arg(offset);
        let answer: Vec<String> = session.invoke(&script).await?;
        RemoteState::read(&answer).ok_or_else(away)
    }

    /// Reads what is behind `from` up to the state, as far as it is retained.
    async fn read_missing(
        &self,
        core: &Arc<Core>,
        session: &Connection,
        from: u64,
        state: &RemoteState,
    ) -> Result<(), Refusal> {
        let mut next = from + 1;
        while next <= state.offset && state.ended.is_none() {
            let mut command = redis::cmd("XRANGE");
            command.arg(core.names.stream(&self.channel)).arg(format!("{next}-0")).arg("+").arg("COUNT").arg(READ_PAGE);
            let page: StreamRangeReply = session.query(&command).await?;
            let Some(last) = page.ids.last() else { return Ok(()) };
            next = last.id.split('-').next().and_then(|id| id.parse::<u64>().ok()).ok_or_else(away)? + 1;
            for row in &page.ids {
                let bytes: Option<Vec<u8>> = row.get("p");
                let Some(Message::Publication(received)) = bytes.as_deref().and_then(Message::read) else { continue };
                let walks = {
                    let mut log = self.log.lock();
                    if *received.epoch != *state.epoch {
                        // It began anew since.
                        return Err(away());
                    }
                    if received.offset > log.position().offset + 1 {
                        self.jump(core, &mut log, received.offset - 1);
                    }
                    let age = Duration::from_millis(state.time.saturating_sub(received.time));
                    let now = Instant::now();
                    self.reveal(core, &mut log, &received, now.checked_sub(age).unwrap_or(now))
                };
                deliver(walks).await;
            }
        }
        Ok(())
    }

    /// What is between the log and `offset` is gone, and whoever waits for it is told so.
    fn jump(&self, core: &Core, log: &mut Log, offset: u64) {
        core.channels.hub.end(&self.channel, CloseReason::EngineUnavailable);
        self.newest.store(0, Ordering::Relaxed);
        log.skip_to(offset);
    }
}

struct Gap;

impl RemoteState {
    fn read(answer: &[String]) -> Option<Self> {
        let [epoch, offset, _, age, ended, declared, time, watchers] = answer else { return None };
        Some(Self {
            epoch: epoch.as_str().into(),
            offset: offset.parse().ok()?,
            age: Duration::from_millis(age.parse().ok()?),
            ended: if ended.is_empty() { None } else { Some(wire::reason_of(ended)?) },
            declared: declared.clone(),
            time: time.parse().ok()?,
            watchers: watchers.clone(),
        })
    }
}

/// Writes to members and waits while too much waits before them.
pub async fn deliver(walks: Deliveries) {
    if let Some(congestion) = walks.run() {
        congestion.wait().await;
    }
}

/// The moment so long ago, on both clocks.
fn created(age: Duration) -> Now {
    let now = Now::read();
    Now {
        monotonic: now.monotonic.checked_sub(age).unwrap_or(now.monotonic),
        wall: now.wall.checked_sub(age).unwrap_or(now.wall),
    }
}
