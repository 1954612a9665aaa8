//! One connection of a client, from `hello` to its close.

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::channel::{Channel, Status};
use super::core::{Closed, Core};
use super::event::Event;
use super::state::State;
use crate::error::Error;
use crate::frame::Frame;
use crate::socket::{Incoming, Reader, Socket};

/// A connection of this age resets the backoff.
const STABLE_CONNECTION_AGE: Duration = Duration::from_secs(5);

/// Minimum wait before a channel with a temporary refusal is requested again.
const REFUSED_CHANNEL_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Tokens that expire later are refreshed after this time.
const MAX_REFRESH_DELAY: Duration = Duration::from_secs(86_400);

pub(super) struct Session<'a> {
    core: &'a mut Core,
    writer: mpsc::Sender<Message>,
    reader: Reader,
    /// Dropping it closes the WebSocket.
    _keep_open: tokio::sync::oneshot::Sender<()>,
    /// Taken from the core, waits for the write queue.
    next_frame: Option<String>,
    has_work: bool,
    /// When the backoff is reset.
    stable_at: Option<Instant>,
    is_ready: bool,
    /// How often the gateway pings.
    ping_interval: Duration,
    last_activity: Instant,
    ping_sent_at: Option<Instant>,
    refresh_at: Option<Instant>,
    refreshing: Option<JoinHandle<Result<Option<String>, Error>>>,
    /// Code of the last ended channel. The gateway closes a connection without channels with the same code.
    channel_close_code: u16,
}

impl<'a> Session<'a> {
    pub(super) fn new(core: &'a mut Core, socket: Socket, hello: String) -> Self {
        let (now, ping_interval) = (Instant::now(), core.gateway.pong_timeout);
        Self {
            core,
            writer: socket.writer,
            reader: socket.reader,
            _keep_open: socket.keep_open,
            next_frame: Some(hello),
            has_work: true,
            stable_at: None,
            is_ready: false,
            ping_interval,
            last_activity: now,
            ping_sent_at: None,
            refresh_at: None,
            refreshing: None,
            channel_close_code: 0,
        }
    }

    /// Runs until the connection ends with an error, or the client is closed.
    pub(super) async fn run(mut self) -> Result<Closed, Error> {
        let writer = self.writer.clone();
        loop {
            if self.next_frame.is_none() && self.has_work {
                self.next_frame = self.core.next_frame();
                self.has_work = self.next_frame.is_some();
            }
            let deadline = self.next_deadline();
            tokio::select! {
                received = self.reader.next() => {
                    (self.last_activity, self.ping_sent_at) = (Instant::now(), None);
                    match received {
                        Incoming::Activity => {}
                        Incoming::Text(text) => {
                            if let Some(frame) = Frame::parse(text) {
                                self.on_frame(frame);
                            }
                        }
                        Incoming::Closed(error) => return Err(self.close_error(error)),
                    }
                }
                permit = writer.reserve(), if self.next_frame.is_some() => match (permit, self.next_frame.take()) {
                    (Ok(permit), Some(text)) => permit.send(Message::text(text)),
                    _ => {
                        let error = self.reader.close_reason().await;
                        return Err(self.close_error(error));
                    }
                },
                command = self.core.commands.recv() => {
                    let Some(command) = command else { return Ok(Closed) };
                    if let Err(closed) = self.core.on_command(command) {
                        return Ok(closed);
                    }
                    self.has_work = true;
                }
                () = self.core.wake.notified() => {
                    self.core.reap_closed();
                    self.has_work = true;
                }
                token = async { self.refreshing.as_mut()?.await.ok() }, if self.refreshing.is_some() => {
                    self.refreshing = None;
                    // Without a new token the gateway closes the connection at expiry.
                    if let Some(Ok(Some(token))) = token {
                        self.core.tokens.store(token.clone(), SystemTime::now());
                        self.refresh(token);
                    }
                }
                () = sleep_until(deadline) => self.on_deadline()?,
            }
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        let id = frame.id.as_deref().and_then(|id| id.parse::<u64>().ok());
        match frame.r#type.as_str() {
            "message" => {
                let Some(name) = frame.channel.clone() else { return };
                if self.core.channels.get_mut(&name).is_some_and(|channel| channel.on_message(frame)) {
                    self.pause(&name);
                }
            }
            "subscribed" => {
                let Some(name) = &frame.channel else { return };
                if self.core.channels.get_mut(name).is_some_and(|channel| channel.on_subscribed(&frame, id)) {
                    self.pause(name);
                }
            }
            state @ ("degraded" | "restored") => {
                let event = if state == "degraded" { Event::Degraded } else { Event::Restored };
                let Some(name) = &frame.channel else { return };
                if self.core.channels.get_mut(name).is_some_and(|channel| channel.on_state(event)) {
                    self.pause(name);
                }
            }
            // A reason means that the gateway ended the subscription.
            "unsubscribed" => {
                if let (Some(name), Some(reason)) = (&frame.channel, &frame.reason) {
                    self.channel_close_code = frame.close_code();
                    self.on_channel_refused(name, Error::from_close(self.channel_close_code, reason));
                }
            }
            "welcome" if !self.is_ready => {
                self.is_ready = true;
                self.core.tokens.on_accepted();
                self.stable_at = Some(Instant::now() + STABLE_CONNECTION_AGE);
                self.ping_interval = Duration::from_secs(frame.ping_secs.unwrap_or(25).clamp(1, 3600));
                self.refresh_before(frame.expires.as_deref());
                self.core.set_state(State::Connected);
            }
            "refreshed" => self.refresh_before(frame.expires.as_deref()),
            "replied" => {
                if let Some(id) =
                    id.filter(|id| self.core.pending.get(id).is_some_and(|pending| !pending.expects_answer))
                {
                    self.complete_reply(id, Ok(frame));
                }
            }
            "answer" => _ = id.map(|id| self.complete_reply(id, Ok(frame))),
            "error" => {
                let error = frame.error();
                let asked = |channel: &&Channel| id.is_some_and(|id| channel.status == Status::Requested(id));
                let name = self.core.channels.values().find(asked).map(|channel| channel.name.clone());
                match (name, id) {
                    (Some(name), _) => self.on_channel_refused(&name, error),
                    (None, Some(id)) => self.complete_reply(id, Err(error)),
                    // The error belongs to an `unsubscribe` or to no command.
                    (None, None) => {}
                }
            }
            _ => {}
        }
    }

    /// Unsubscribes a channel whose queue is full, until the reader drains it.
    fn pause(&mut self, name: &str) {
        let id = self.core.next_id();
        let Some(channel) = self.core.channels.get_mut(name) else { return };
        let text = channel.unsubscribe(id);
        channel.pause();
        // The reader may have drained its queue before `is_paused` was set.
        self.core.wake.notify_one();
        self.core.priority_frames.push_back(text);
        self.has_work = true;
    }

    /// Ends a channel for good, or requests it again later after a temporary refusal.
    fn on_channel_refused(&mut self, name: &str, error: Error) {
        if !error.temporary {
            if let Some(channel) = self.core.channels.remove(name) {
                channel.end(Some(error));
            }
        } else if let Some(channel) = self.core.channels.get_mut(name) {
            let wait = REFUSED_CHANNEL_RETRY_DELAY + self.core.backoff.next(error.retry_after);
            channel.status = Status::ToRequest(Some(Instant::now() + wait));
        }
    }

    fn complete_reply(&mut self, id: u64, answer: Result<Frame, Error>) {
        if let Some(pending) = self.core.pending.remove(&id) {
            // The caller may have given up.
            let _ = pending.done.send(answer);
        }
    }

    fn close_error(&self, error: Error) -> Error {
        // Only the last channel ended; the client may subscribe to others.
        let is_of_channel = self.channel_close_code != 0 && error.status == Some(self.channel_close_code);
        Error { temporary: error.temporary || is_of_channel, ..error }
    }

    /// Returns the time of the next timer.
    fn next_deadline(&self) -> Instant {
        let life =
            self.ping_sent_at.map_or(self.last_activity + self.ping_interval, |at| at + self.core.gateway.pong_timeout);
        // A due `subscribe` has to wait while a frame waits for the write queue.
        let again =
            self.core.channels.values().filter(|_| self.next_frame.is_none()).filter_map(|channel| {
                match channel.status {
                    Status::ToRequest(at) => at,
                    _ => None,
                }
            });
        again.chain([life]).chain(self.refresh_at).chain(self.stable_at).min().unwrap_or(life)
    }

    fn on_deadline(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            let source = self.core.tokens.source.clone();
            self.refreshing = Some(tokio::spawn(async move { source.get().await }));
        }
        if self.stable_at.is_some_and(|at| at <= now) {
            self.stable_at = None;
            self.core.backoff.reset();
        }
        self.has_work = true;
        match self.ping_sent_at {
            Some(at) if now >= at + self.core.gateway.pong_timeout => {
                Err(Error::temporary("ping_timeout", "no frame from the gateway in time"))
            }
            None if now >= self.last_activity + self.ping_interval => {
                if !self.is_ready {
                    return Err(Error::temporary("timeout", "no welcome from the gateway in time"));
                }
                self.ping_sent_at = Some(now);
                // If the queue is full, the gateway's own pings show activity.
                let _ = self.writer.try_send(Message::text(r#"{"type":"ping"}"#));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn refresh(&mut self, token: String) {
        let id = self.core.next_id();
        let token = serde_json::Value::from(token);
        self.core.priority_frames.push_back(format!(r#"{{"type":"refresh","id":"{id}","token":{token}}}"#));
        self.has_work = true;
    }

    /// Schedules the refresh: in the last tenth of the token's lifetime, at most a minute before its end.
    fn refresh_before(&mut self, expires: Option<&str>) {
        self.refresh_at = None;
        let expires = expires.filter(|_| self.core.tokens.source.is_renewable());
        let Some(expires) = expires.and_then(|expires| expires.parse::<jiff::Timestamp>().ok()) else { return };
        // The local clock is wrong or the token already expired: the gateway closes the connection at expiry.
        let Ok(left) = Duration::try_from(expires.duration_since(jiff::Timestamp::now())) else { return };
        let early = (left / 10).min(Duration::from_secs(60));
        if left - early > Duration::from_millis(500) {
            self.refresh_at = Some(Instant::now() + (left - early).min(MAX_REFRESH_DELAY));
        }
    }
}
