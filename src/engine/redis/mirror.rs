//! This node's copy of one channel: it applies the publications of Redis in order and without a gap.
//!
//! A mirror first subscribes and then reads the stream; messages that arrive meanwhile are buffered. It reads again
//! whenever an offset is missing. If the missing publications are gone, or the epoch changed, it ends its subscriptions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::streams::StreamRangeReply;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, unavailable};
use super::core::Core;
use super::keys::SCRIPTS;
use super::signer::{FreePublications, is_authentic};
use super::subscriber_quota::SubscriberQuota;
use super::wire::{self, MAX_OFFSET, Message, Received};
use crate::broker::Now;
use crate::broker::channel::delivery::Deliveries;
use crate::broker::channel::presence::PRESENCE_LEASE;
use crate::engine::backlog::Entry;
use crate::engine::channels::{SharedLog, new_epoch};
use crate::engine::log::{Log, LogState};
use crate::engine::millis::millis;
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::{ChannelName, CloseReason, Position, Refusal};

/// Publications that one command reads.
const READ_PAGE: usize = 256;

/// Messages that are buffered during a resync. After more, the mirror reads again.
const MAX_BUFFERED_MESSAGES: usize = 4096;

/// A publication that takes longer to arrive may have been lost.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// After this many seconds of resyncing, the channel counts as unreachable.
const MAX_BEHIND_SWEEPS: u32 = 3;

/// Waits between attempts to read on one connection.
const FIRST_READ_RETRY: Duration = Duration::from_millis(50);
const MAX_READ_RETRY: Duration = Duration::from_secs(1);

pub struct Mirror {
    pub channel: ChannelName,
    pub log: SharedLog,
    pub quota: Arc<SubscriberQuota>,
    progress: Mutex<Progress>,
    is_ready: watch::Sender<bool>,
    /// The log has its epoch from Redis.
    is_loaded: AtomicBool,
    /// Redis has the channel.
    exists: AtomicBool,
    /// Time of the newest publication, in milliseconds since 1970; 0 before the first one.
    newest: AtomicU64,
    free: Mutex<FreePublications>,
    /// Notified after each commit.
    moved: Notify,
    /// Subscribers were sent `degraded`.
    is_degraded: AtomicBool,
    /// Sweeps since the mirror was last current.
    sweeps_behind: AtomicU32,
}

#[derive(Default)]
struct Progress {
    /// A resync task runs.
    is_reading: bool,
    /// The task must read again, because a message may have been missed.
    must_repeat: bool,
    /// Messages that arrived meanwhile, in order.
    buffered: VecDeque<Message>,
}

/// The state of a channel, as `attach.lua` returns it.
struct RemoteState {
    epoch: Arc<str>,
    offset: u64,
    age: Duration,
    ended: Option<CloseReason>,
    declared: String,
    /// Time of Redis, in milliseconds since 1970.
    time: u64,
    /// Nodes that watch the presence of the channel, separated by blanks.
    watchers: String,
    /// `false` for a waiting name.
    exists: bool,
}

impl Mirror {
    pub fn new(channel: ChannelName, log: SharedLog) -> Arc<Self> {
        Arc::new(Self {
            quota: SubscriberQuota::new(channel.clone(), log.clone()),
            channel,
            log,
            progress: Mutex::default(),
            is_ready: watch::Sender::new(false),
            is_loaded: AtomicBool::new(false),
            exists: AtomicBool::new(false),
            newest: AtomicU64::new(0),
            free: Mutex::default(),
            moved: Notify::new(),
            is_degraded: AtomicBool::new(false),
            sweeps_behind: AtomicU32::new(0),
        })
    }

    /// Whether it is current: it has read everything and receives what follows.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Whether it ever was current.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    /// The last position that it applied; `None` if it never was current.
    pub fn known_position(&self) -> Option<Position> {
        self.is_loaded().then(|| self.log.lock().position())
    }

    /// Refuses if it is the mirror of a channel that is one too many.
    pub fn check_room(&self, core: &Core) -> Result<(), Refusal> {
        let is_refused = self.exists.load(Ordering::Acquire) && self.log.lock().is_waiting();
        if is_refused { core.channels.check_room() } else { Ok(()) }
    }

    pub async fn ready(&self) {
        // This cannot fail: the mirror owns the sender.
        let _ = self.is_ready.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    /// Waits until the mirror has caught up with Redis, so that a client finds every publication it was already sent.
    pub async fn wait_until_current(self: &Arc<Self>, core: &Arc<Core>) -> Result<(), Refusal> {
        let mut command = redis::cmd("HMGET");
        command.arg(core.keys.state(&self.channel)).arg("epoch").arg("offset");
        let (epoch, offset): (Option<String>, Option<u64>) = core.connection()?.query(&command).await?;
        loop {
            let moved = self.moved.notified();
            {
                let log = self.log.lock();
                let is_same = epoch.as_deref().map_or(log.is_waiting(), |epoch| *epoch == *log.epoch);
                if log.state == LogState::Removed || (is_same && log.position().offset >= offset.unwrap_or(0)) {
                    return Ok(());
                }
                if !is_same {
                    break;
                }
            }
            if timeout(CATCH_UP_TIMEOUT, moved).await.is_err() {
                break;
            }
        }
        self.resync(core);
        self.ready().await;
        Ok(())
    }

    /// Sends subscribers `degraded` when the channel cannot be followed, and `restored` once the mirror is current again. To
    /// be called once a second, by one task.
    pub fn send_state(&self, core: &Core, is_node_cut_off: bool) {
        let is_ready = self.is_ready();
        let sweeps_behind = if is_ready { 0 } else { self.sweeps_behind.load(Ordering::Relaxed) + 1 };
        self.sweeps_behind.store(sweeps_behind, Ordering::Relaxed);
        let was_degraded = self.is_degraded.load(Ordering::Relaxed);
        let is_degraded = is_node_cut_off || sweeps_behind >= MAX_BEHIND_SWEEPS || (was_degraded && !is_ready);
        if self.is_degraded.swap(is_degraded, Ordering::Relaxed) != is_degraded {
            let channel = self.channel.as_str();
            let state = if is_degraded { ServerFrame::Degraded { channel } } else { ServerFrame::Restored { channel } };
            core.channels.hub.send_state(&self.channel, &state);
        }
    }

    /// Reads the stream again, because a message may have been missed.
    pub fn resync(self: &Arc<Self>, core: &Arc<Core>) {
        self.resync_locked(core, &mut self.progress.lock());
    }

    fn resync_locked(self: &Arc<Self>, core: &Arc<Core>, progress: &mut Progress) {
        self.is_ready.send_replace(false);
        if std::mem::replace(&mut progress.is_reading, true) {
            progress.must_repeat = true;
        } else {
            core.runtime.spawn(self.clone().read(core.clone()));
        }
    }

    /// Applies a message. Returns the deliveries to run.
    pub fn on_message(self: &Arc<Self>, core: &Arc<Core>, message: Message) -> Deliveries {
        let mut progress = self.progress.lock();
        if progress.is_reading {
            if progress.buffered.len() < MAX_BUFFERED_MESSAGES {
                progress.buffered.push_back(message);
            } else {
                progress.must_repeat = true;
            }
            return Deliveries::default();
        }
        self.apply(core, message).unwrap_or_else(|Gap| {
            self.resync_locked(core, &mut progress);
            Deliveries::default()
        })
    }

    /// Fails if publications before the message are missing.
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
                // An older offset with a newer time: Redis lost the channel and began it again.
                let newest = self.newest.load(Ordering::Relaxed);
                let is_replaced = received.offset <= position.offset && newest != 0 && received.time > newest;
                if is_replaced || received.offset > position.offset + 1 {
                    return Err(Gap);
                }
                Ok(self.commit(core, &mut log, &received, Instant::now()))
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
            Message::Resync => Err(Gap),
            Message::Watch { node } => {
                self.add_remote_watcher(core, &node);
                Ok(Deliveries::default())
            }
        }
    }

    /// Makes an authentic publication visible, unless the mirror has its offset or had it before.
    fn commit(&self, core: &Core, log: &mut Log, received: &Received, at: Instant) -> Deliveries {
        if received.offset <= log.position().offset {
            return Deliveries::default();
        }
        if received.proof.is_some() && !self.free.lock().admit(received) {
            core.guard.refuse("repeated publication", self.channel.as_str());
            return Deliveries::default();
        }
        let Some((publication, publisher, bytes)) = received.publication(&self.channel) else {
            return Deliveries::default();
        };
        let rules = core.channels.rules.load();
        let rule = rules.of(&self.channel);
        let kept = (rule.backlog_messages > 0).then(|| Entry { at, form: publication.stored() });
        core.channels.make_channel(log, Now::read());
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

    /// Sends presence updates of this node to `node` from now on.
    fn add_remote_watcher(&self, core: &Core, node: &str) {
        if node != core.node {
            core.channels.hub.add_remote_watcher(&self.channel, node, Instant::now() + PRESENCE_LEASE);
        }
    }

    async fn read(self: Arc<Self>, core: Arc<Core>) {
        let mut pause = FIRST_READ_RETRY;
        loop {
            {
                let mut progress = self.progress.lock();
                // Messages that arrive from here on are not older than the state that is read.
                (progress.must_repeat, progress.buffered) = (false, VecDeque::new());
                if self.log.lock().state == LogState::Removed {
                    progress.is_reading = false;
                    // Wakes those that wait for `ready`; they see the state.
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
                if !progress.must_repeat && core.connection().is_err() {
                    // The next connection resyncs every mirror.
                    progress.is_reading = false;
                    return;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_READ_RETRY);
        }
    }

    /// Applies the buffered messages. `false` if the mirror has to read again.
    async fn catch_up(&self, core: &Arc<Core>) -> bool {
        loop {
            let deliveries = {
                let mut progress = self.progress.lock();
                if progress.must_repeat {
                    return false;
                }
                let Some(message) = progress.buffered.pop_front() else {
                    progress.is_reading = false;
                    self.is_loaded.store(true, Ordering::Release);
                    self.is_ready.send_replace(true);
                    return true;
                };
                match self.apply(core, message) {
                    Ok(deliveries) => deliveries,
                    Err(Gap) => return false,
                }
            };
            deliver(deliveries).await;
        }
    }

    async fn read_once(&self, core: &Arc<Core>) -> Result<(), Refusal> {
        let connection = core.connection()?;
        let _permit = core.resync_permits.acquire().await.map_err(|_| unavailable())?;
        {
            // No cleanup unsubscribes meanwhile.
            let _no_unsubscribe = core.subscribe_lock.read().await;
            if self.log.lock().state == LogState::Removed {
                // Nothing would unsubscribe again.
                return Ok(());
            }
            connection.subscribe(&core.keys.pubsub(&self.channel)).await?;
        }
        let known = self.known_position();
        let backlog = core.channels.rules.load().of(&self.channel).backlog_messages;
        let known_to_redis = match &known {
            Some(known) if self.is_replaced(core, &connection, known).await? => Some((&*known.epoch, u64::MAX)),
            known => known.as_ref().map(|known| (&*known.epoch, known.offset)),
        };
        let state = self.state(core, &connection, known_to_redis).await?;
        state
            .watchers
            .split_whitespace()
            .filter(|node| wire::is_node_name(node))
            .for_each(|node| self.add_remote_watcher(core, node));
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
            if state.exists && core.channels.check_room().is_ok() {
                core.channels.make_channel(&mut log, Now::read());
            }
            log.declared = wire::limits(&state.declared);
            log.created = wire::created(state.age);
            self.exists.store(state.exists, Ordering::Release);
        }
        let from = known.filter(|_| is_same).map_or(state.offset.saturating_sub(backlog), |known| known.offset);
        self.read_missing(core, &connection, from, &state).await?;
        let mut log = self.log.lock();
        if log.position().offset < state.offset {
            self.skip_to(core, &mut log, state.offset);
        }
        if let Some(reason) = state.ended {
            self.end(core, &mut log, reason);
        }
        Ok(())
    }

    /// Whether Redis has another publication at the newest offset of the mirror: it lost that one and continued.
    async fn is_replaced(&self, core: &Core, connection: &Connection, known: &Position) -> Result<bool, Refusal> {
        let (newest, id) = (self.newest.load(Ordering::Relaxed), format!("{}-0", known.offset));
        if newest == 0 {
            return Ok(false);
        }
        let mut command = redis::cmd("XRANGE");
        command.arg(core.keys.stream(&self.channel)).arg(&id).arg(&id);
        let page: StreamRangeReply = connection.query(&command).await?;
        let row = page.ids.first().and_then(|row| row.get::<Vec<u8>>("p"));
        Ok(match row.as_deref().and_then(Message::read) {
            Some(Message::Publication(received)) => *received.epoch == *known.epoch && received.time != newest,
            _ => false,
        })
    }

    async fn state(
        &self,
        core: &Core,
        connection: &Connection,
        known: Option<(&str, u64)>,
    ) -> Result<RemoteState, Refusal> {
        let (epoch, offset) = known.unwrap_or(("", 0));
        let lifespan = core.channels.rules.load().of(&self.channel).limits.lifespan;
        let mut script = SCRIPTS.attach.prepare_invoke();
        let (keys, channel) = (&core.keys, &self.channel);
        script.key(keys.state(channel)).key(keys.stream(channel)).key(keys.watch(channel));
        script.arg(&*new_epoch()?).arg(&connection.marker).arg(millis(lifespan));
        script.arg(millis(core.idle)).arg(keys.pubsub(channel)).arg(connection.publish());
        script.arg(epoch).arg(offset);
        let answer: Vec<String> = connection.invoke(&script).await?;
        RemoteState::read(&answer).ok_or_else(unavailable)
    }

    /// Reads the publications after `from` up to the offset of `state`, as far as they are retained.
    async fn read_missing(
        &self,
        core: &Arc<Core>,
        connection: &Connection,
        from: u64,
        state: &RemoteState,
    ) -> Result<(), Refusal> {
        let mut next = from + 1;
        while next <= state.offset && state.ended.is_none() {
            let mut command = redis::cmd("XRANGE");
            command.arg(core.keys.stream(&self.channel)).arg(format!("{next}-0")).arg("+").arg("COUNT").arg(READ_PAGE);
            let page: StreamRangeReply = connection.query(&command).await?;
            let Some(last) = page.ids.last() else { return Ok(()) };
            next = last.id.split('-').next().and_then(|id| id.parse::<u64>().ok()).ok_or_else(unavailable)? + 1;
            for row in &page.ids {
                let bytes: Option<Vec<u8>> = row.get("p");
                let Some(Message::Publication(received)) = bytes.as_deref().and_then(Message::read) else { continue };
                if !is_authentic(&core.guard, &self.channel, &received) {
                    continue;
                }
                let deliveries = {
                    let mut log = self.log.lock();
                    if *received.epoch != *state.epoch {
                        // The channel has a new epoch since.
                        return Err(unavailable());
                    }
                    if received.offset > log.position().offset + 1 {
                        self.skip_to(core, &mut log, received.offset - 1);
                    }
                    let age = Duration::from_millis(state.time.saturating_sub(received.time));
                    let now = Instant::now();
                    self.commit(core, &mut log, &received, now.checked_sub(age).unwrap_or(now))
                };
                deliver(deliveries).await;
            }
        }
        Ok(())
    }

    /// The publications up to `offset` are gone: ends the subscriptions and continues after them.
    fn skip_to(&self, core: &Core, log: &mut Log, offset: u64) {
        core.channels.hub.end(&self.channel, CloseReason::EngineUnavailable);
        self.newest.store(0, Ordering::Relaxed);
        log.skip_to(offset);
    }
}

/// Publications are missing before a message.
struct Gap;

impl RemoteState {
    fn read(answer: &[String]) -> Option<Self> {
        let [epoch, offset, _, age, ended, declared, time, watchers, exists] = answer else { return None };
        Some(Self {
            epoch: epoch.as_str().into(),
            offset: offset.parse().ok().filter(|offset| *offset <= MAX_OFFSET)?,
            age: Duration::from_millis(age.parse().ok()?),
            ended: if ended.is_empty() { None } else { Some(wire::reason_of(ended)?) },
            declared: declared.clone(),
            time: time.parse().ok()?,
            watchers: watchers.clone(),
            exists: exists == "1",
        })
    }
}

/// Runs deliveries, then waits while there is backpressure.
pub async fn deliver(deliveries: Deliveries) {
    if let Some(backpressure) = deliveries.run() {
        backpressure.wait().await;
    }
}
