//! The publisher's WebSocket task: keeps a connection and its pending requests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::reply_frame::ReplyFrame;
use super::watcher::Watcher;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::frame::Frame;
use crate::gateway::Gateway;
use crate::key::Key;
use crate::socket::{Incoming, Socket, Upgrade};

/// Commands in the task's queue.
const COMMAND_QUEUE: usize = 16;

/// Requests not handed to the socket yet. At this number no further commands are accepted.
const MAX_QUEUED_REQUESTS: usize = 256;

/// A connection of this age resets the backoff.
const STABLE_CONNECTION_AGE: Duration = Duration::from_secs(5);

/// The gateway responds to this command only with an error.
const UNACKNOWLEDGED_COMMAND: &str = "received";

/// A reference to a link, which ends with the last handle and its pending requests.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    /// Why the link ended, for later callers.
    ended: Arc<OnceLock<Error>>,
}

pub(super) struct WeakHandle(mpsc::WeakSender<Command>, Arc<OnceLock<Error>>);

/// A command that expects a response.
pub(super) struct Request {
    kind: &'static str,
    /// Members of the frame besides `type` and `id`.
    members: String,
    /// Whether it is sent again if the connection breaks before the response.
    pub resend: bool,
    /// Returned to the window with the response.
    pub window_permit: Option<OwnedSemaphorePermit>,
    done: oneshot::Sender<Result<Frame, Error>>,
}

pub(super) enum Command {
    Ready(oneshot::Sender<Result<(), Error>>),
    Request(Request),
    Replies(mpsc::Sender<ReplyFrame>, oneshot::Sender<Result<(), Error>>),
    Watch(String, Watcher),
}

impl Handle {
    pub(super) fn open(gateway: Gateway, key: Key) -> Self {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let (backoff, ended) = (gateway.backoff(), Arc::<OnceLock<Error>>::default());
        let link = Link {
            gateway,
            key,
            commands,
            ended: ended.clone(),
            backoff,
            ids: 0,
            queue: VecDeque::new(),
            sent: BTreeMap::new(),
            waiting_for_ready: Vec::new(),
            replies: None,
            watchers: HashMap::new(),
            pending_watches: HashMap::new(),
            to_unwatch: Vec::new(),
            is_abandoned: false,
        };
        tokio::spawn(link.run());
        Self { commands: sender, ended }
    }

    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle(self.commands.downgrade(), self.ended.clone())
    }

    /// Completes once the gateway accepted a connection.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::Ready(done)).await?;
        answer.await.unwrap_or_else(|_| Err(self.end_error()))
    }

    /// Why the link ended.
    pub(super) fn end_error(&self) -> Error {
        self.ended.get().cloned().unwrap_or_else(Error::closed)
    }

    pub(super) async fn request(&self, request: Request) -> Result<(), Error> {
        self.command(Command::Request(request)).await
    }

    pub(super) async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.end_error())
    }
}

impl WeakHandle {
    pub(super) fn upgrade(&self) -> Option<Handle> {
        let commands = self.0.upgrade().filter(|sender| !sender.is_closed())?;
        Some(Handle { commands, ended: self.1.clone() })
    }
}

impl Request {
    pub(super) fn new(kind: &'static str, members: String) -> (Self, oneshot::Receiver<Result<Frame, Error>>) {
        let (done, answer) = oneshot::channel();
        (Self { kind, members, resend: false, window_permit: None, done }, answer)
    }

    fn complete(self, answer: Result<Frame, Error>) {
        let Self { done, window_permit, .. } = self;
        // The caller may have given up.
        let _ = done.send(answer);
        // The result is sent before the permit returns, so `flush` implies that all results are there.
        drop(window_permit);
    }
}

struct Link {
    gateway: Gateway,
    key: Key,
    commands: mpsc::Receiver<Command>,
    ended: Arc<OnceLock<Error>>,
    backoff: Backoff,
    ids: u64,
    queue: VecDeque<Request>,
    /// Sorted by id, so in sending order.
    sent: BTreeMap<u64, Request>,
    /// Callers of [`Handle::ready`].
    waiting_for_ready: Vec<oneshot::Sender<Result<(), Error>>>,
    replies: Option<mpsc::Sender<ReplyFrame>>,
    watchers: HashMap<String, Watcher>,
    /// Channels of `watch` commands without a response.
    pending_watches: HashMap<u64, String>,
    /// Channels without a reader, whose events the gateway still sends.
    to_unwatch: Vec<String>,
    /// The last handle was dropped.
    is_abandoned: bool,
}

impl Link {
    async fn run(mut self) {
        loop {
            let error = match self.connect().await {
                Ok(socket) => self.run_connection(socket).await,
                Err(error) => error,
            };
            self.on_disconnect();
            if !error.temporary || self.is_abandoned {
                return self.fail(&error);
            }
            let until = Instant::now() + self.backoff.next(error.retry_after);
            if self.run_until(sleep_until(until)).await.is_none() {
                return self.fail(&error);
            }
        }
    }

    async fn connect(&mut self) -> Result<Socket, Error> {
        let (gateway, key) = (self.gateway.clone(), self.key.clone());
        let opening = async move { Socket::open(&gateway, "/v1/publish", Upgrade::Signed(&key)).await };
        self.run_until(opening).await.unwrap_or_else(|| Err(Error::closed()))
    }

    /// Handles commands until `other` completes. Returns `None` if no handle and no request is left.
    async fn run_until<T>(&mut self, other: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Some(done),
                command = self.commands.recv(), if !self.is_abandoned && self.queue.len() < MAX_QUEUED_REQUESTS => {
                    self.is_abandoned = command.is_none();
                    if self.is_abandoned && self.queue.is_empty() {
                        return None;
                    }
                    if let Some(command) = command {
                        self.on_command(command, false);
                    }
                }
            }
        }
    }

    /// Runs until the connection ends and returns the reason.
    async fn run_connection(&mut self, socket: Socket) -> Error {
        let Socket { writer, mut reader, keep_open: _keep_open } = socket;
        let opened = Instant::now();
        let (mut is_ready, mut ping_interval) = (false, self.gateway.pong_timeout);
        let (mut last_activity, mut ping_sent_at) = (opened, None);
        loop {
            if self.is_abandoned && self.queue.is_empty() && self.sent.is_empty() {
                return Error::closed();
            }
            let deadline =
                ping_sent_at.map_or(last_activity + ping_interval, |at: Instant| at + self.gateway.pong_timeout);
            let has_work = is_ready && self.has_work();
            tokio::select! {
                received = reader.next() => {
                    (last_activity, ping_sent_at) = (Instant::now(), None);
                    match received {
                        Incoming::Closed(error) => return error,
                        Incoming::Activity => {}
                        Incoming::Text(text) => match Frame::parse(text) {
                            Some(frame) if frame.r#type == "welcome" => {
                                is_ready = true;
                                ping_interval = Duration::from_secs(frame.ping_secs.unwrap_or(25).clamp(1, 3600));
                                self.on_ready();
                            }
                            Some(frame) => self.on_frame(frame),
                            None => {}
                        },
                    }
                    if opened.elapsed() > STABLE_CONNECTION_AGE {
                        self.backoff.reset();
                    }
                }
                permit = writer.reserve(), if has_work => match permit {
                    Ok(permit) => if let Some(text) = self.next_text() { permit.send(Message::text(text)) },
                    Err(_) => return reader.close_reason().await,
                },
                command = self.commands.recv(), if !self.is_abandoned && self.queue.len() < MAX_QUEUED_REQUESTS => match command {
                    Some(command) => self.on_command(command, is_ready),
                    None => self.is_abandoned = true,
                },
                () = sleep_until(deadline) => {
                    if ping_sent_at.is_some() || !is_ready {
                        return Error::temporary("ping_timeout", "no frame from the gateway in time");
                    }
                    ping_sent_at = Some(Instant::now());
                    // If the queue is full, the gateway's own pings show activity.
                    let _ = writer.try_send(Message::text(r#"{"type":"ping"}"#));
                }
            }
        }
    }

    fn on_command(&mut self, command: Command, is_connected: bool) {
        match command {
            Command::Ready(done) if is_connected => _ = done.send(Ok(())),
            Command::Ready(done) => self.waiting_for_ready.push(done),
            Command::Request(request) => self.queue.push_back(request),
            Command::Replies(replies, done) => {
                let is_free = self.replies.as_ref().is_none_or(mpsc::Sender::is_closed);
                if is_free {
                    self.replies = Some(replies);
                    self.on_command(Command::Ready(done), is_connected);
                } else {
                    let _ = done.send(Err(Error::new("already_open", "a stream of replies is already open")));
                }
            }
            Command::Watch(channel, watcher) => {
                if self.watchers.get(&channel).is_some_and(|old| !old.is_closed()) {
                    watcher.end(Error::new("already_watching", "the channel is already watched"));
                } else {
                    let old = self.watchers.insert(channel.clone(), watcher);
                    self.to_unwatch.extend(old.filter(|old| old.is_requested).map(|_| channel));
                }
            }
        }
    }

    fn on_ready(&mut self) {
        self.waiting_for_ready.drain(..).for_each(|done| _ = done.send(Ok(())));
    }

    fn has_work(&self) -> bool {
        let mut watchers = self.watchers.values();
        !self.queue.is_empty() || !self.to_unwatch.is_empty() || watchers.any(|watcher| !watcher.is_requested)
    }

    /// Returns the next frame to send.
    fn next_text(&mut self) -> Option<String> {
        self.ids += 1;
        let id = self.ids;
        if let Some(channel) = self.to_unwatch.pop() {
            return Some(frame("unwatch", id, &channel_member(&channel)));
        }
        if let Some((channel, watcher)) = self.watchers.iter_mut().find(|(_, watcher)| !watcher.is_requested) {
            watcher.is_requested = true;
            self.pending_watches.insert(id, channel.clone());
            return Some(frame("watch", id, &channel_member(channel)));
        }
        let request = self.queue.pop_front()?;
        let text = frame(request.kind, id, &request.members);
        if request.kind == UNACKNOWLEDGED_COMMAND {
            request.complete(Ok(Frame::default()));
        } else {
            self.sent.insert(id, request);
        }
        Some(text)
    }

    fn on_frame(&mut self, frame: Frame) {
        let id = frame.id.as_deref().and_then(|id| id.parse::<u64>().ok());
        match frame.r#type.as_str() {
            "reply" => {
                // The gateway sends a reply again if it is not confirmed, so a full buffer loses nothing.
                if let (Some(replies), Some(reply)) = (&self.replies, ReplyFrame::from_frame(frame)) {
                    let _ = replies.try_send(reply);
                }
            }
            "event" | "watching" => {
                id.map(|id| self.pending_watches.remove(&id));
                let Some(channel) = &frame.channel else { return };
                let Some(watcher) = self.watchers.get_mut(channel) else { return };
                if watcher.is_closed() {
                    self.watchers.remove(channel);
                    self.to_unwatch.push(channel.clone());
                } else {
                    watcher.emit(&frame);
                }
            }
            "error" => {
                let error = frame.error();
                let channel = id.and_then(|id| self.pending_watches.remove(&id));
                if let Some(watcher) = channel.and_then(|channel| self.watchers.remove(&channel)) {
                    watcher.end(error);
                } else if let Some(request) = id.and_then(|id| self.sent.remove(&id)) {
                    request.complete(Err(error));
                }
            }
            _ => {
                if let Some(request) = id.and_then(|id| self.sent.remove(&id)) {
                    request.complete(Ok(frame));
                }
            }
        }
    }

    /// Resets the connection's state. Sent requests are queued again or fail with an unknown outcome.
    fn on_disconnect(&mut self) {
        self.pending_watches.clear();
        self.to_unwatch.clear();
        self.watchers.values_mut().for_each(|watcher| watcher.is_requested = false);
        for request in std::mem::take(&mut self.sent).into_values().rev() {
            if request.resend {
                self.queue.push_front(request);
            } else {
                request.complete(Err(Error::connection_lost("connection lost before the response")));
            }
        }
    }

    fn fail(mut self, error: &Error) {
        // Set only here.
        let _ = self.ended.set(error.clone());
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.on_command(command, false);
        }
        self.queue.drain(..).for_each(|request| request.complete(Err(error.clone())));
        self.waiting_for_ready.drain(..).for_each(|done| _ = done.send(Err(error.clone())));
        self.watchers.drain().for_each(|(_, watcher)| watcher.end(error.clone()));
    }
}

fn frame(kind: &str, id: u64, members: &str) -> String {
    format!(r#"{{"type":"{kind}","id":"{id}",{members}}}"#)
}

fn channel_member(channel: &str) -> String {
    format!(r#""channel":{}"#, serde_json::Value::from(channel))
}
