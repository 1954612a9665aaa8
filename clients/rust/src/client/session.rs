//! One connection of a client, from its `hello` to its end.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::channel::{Channel, Status};
use super::core::{Core, Over};
use super::event::Event;
use super::state::State;
use crate::error::Error;
use crate::frame::Frame;
use crate::socket::{Came, Incoming, Socket};

/// A connection that stayed up for so long is a good one.
const STABLE: Duration = Duration::from_secs(5);

/// Before a channel that was refused for the moment is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// A timer that nothing waits for.
const FAR: Duration = Duration::from_secs(86_400);

pub(super) struct Session<'a> {
    core: &'a mut Core,
    out: mpsc::Sender<Message>,
    incoming: Incoming,
    /// Dropped with the session: the socket says goodbye.
    _open: tokio::sync::oneshot::Sender<()>,
    /// Sent before anything else.
    next: Option<String>,
    has_work: bool,
    /// When it will have been well for long enough.
    stable_at: Option<Instant>,
    is_welcome: bool,
    /// The gateway pings as often.
    quiet: Duration,
    last_life: Instant,
    pinged: Option<Instant>,
    refresh_at: Option<Instant>,
    refreshing: Option<JoinHandle<Result<Option<String>, Error>>>,
    /// How the gateway ended a channel: when it was the last one, the connection ends likewise.
    channel_end: u16,
}

impl<'a> Session<'a> {
    pub(super) fn new(core: &'a mut Core, socket: Socket, hello: String) -> Self {
        let (now, quiet) = (Instant::now(), core.gateway.pong);
        Self {
            core,
            out: socket.out,
            incoming: socket.incoming,
            _open: socket.open,
            next: Some(hello),
            has_work: true,
            stable_at: None,
            is_welcome: false,
            quiet,
            last_life: now,
            pinged: None,
            refresh_at: None,
            refreshing: None,
            channel_end: 0,
        }
    }

    /// Why the connection ended, or that the client is over.
    pub(super) async fn run(mut self) -> Result<Over, Error> {
        let out = self.out.clone();
        loop {
            if self.next.is_none() && self.has_work {
                self.next = self.core.next_frame();
                self.has_work = self.next.is_some();
            }
            let due = self.due();
            tokio::select! {
                came = self.incoming.next() => {
                    (self.last_life, self.pinged) = (Instant::now(), None);
                    match came {
                        Came::Life => {}
                        Came::Frame(frame) => self.on_frame(*frame),
                        Came::End(error) => return Err(self.ended(error)),
                    }
                }
                room = out.reserve(), if self.next.is_some() => match (room, self.next.take()) {
                    (Ok(room), Some(text)) => room.send(Message::text(text)),
                    _ => {
                        let error = self.incoming.reason().await;
                        return Err(self.ended(error));
                    }
                },
                command = self.core.commands.recv() => {
                    let Some(command) = command else { return Ok(Over) };
                    if let Err(over) = self.core.take(command) {
                        return Ok(over);
                    }
                    self.has_work = true;
                }
                () = self.core.wake.notified() => {
                    self.core.look();
                    self.has_work = true;
                }
                token = async { self.refreshing.as_mut()?.await.ok() }, if self.refreshing.is_some() => {
                    self.refreshing = None;
                    // Without a newer one the gateway says when it is over.
                    if let Some(Ok(Some(token))) = token {
                        self.refresh(token);
                    }
                }
                () = sleep_until(due) => self.on_time()?,
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
            // With a reason it is the gateway's doing.
            "unsubscribed" => {
                if let (Some(name), Some(reason)) = (&frame.channel, &frame.reason) {
                    self.channel_end = frame.close_code();
                    self.refused(name, Error::of_close(self.channel_end, reason));
                }
            }
            "welcome" if !self.is_welcome => {
                self.is_welcome = true;
                self.stable_at = Some(Instant::now() + STABLE);
                self.quiet = Duration::from_secs(frame.ping_secs.unwrap_or(25).clamp(1, 3600));
                self.refresh_before(frame.expires.as_deref());
                self.core.become_(State::Connected);
            }
            "refreshed" => self.refresh_before(frame.expires.as_deref()),
            "replied" => {
                if let Some(id) = id.filter(|id| self.core.pending.get(id).is_some_and(|pending| !pending.is_question))
                {
                    self.settle(id, Ok(frame));
                }
            }
            "answer" => _ = id.map(|id| self.settle(id, Ok(frame))),
            "error" => {
                let error = frame.error();
                let asked = |channel: &&Channel| id.is_some_and(|id| channel.status == Status::Asked(id));
                let name = self.core.channels.values().find(asked).map(|channel| channel.name.clone());
                match (name, id) {
                    (Some(name), _) => self.refused(&name, error),
                    (None, Some(id)) => self.settle(id, Err(error)),
                    // To `unsubscribe`, or nothing of ours.
                    (None, None) => {}
                }
            }
            _ => {}
        }
    }

    /// The reader of a channel has enough: the gateway stops, and says it again when there is room.
    fn pause(&mut self, name: &str) {
        let id = self.core.next_id();
        let Some(channel) = self.core.channels.get_mut(name) else { return };
        let text = channel.unsubscribe(id);
        channel.pause();
        // The reader may have taken it all before it could know.
        self.core.wake.notify_one();
        self.core.first.push_back(text);
        self.has_work = true;
    }

    /// A channel is not to be had, now or at all.
    fn refused(&mut self, name: &str, error: Error) {
        if !error.temporary {
            if let Some(channel) = self.core.channels.remove(name) {
                channel.end(Some(error));
            }
        } else if let Some(channel) = self.core.channels.get_mut(name) {
            let wait = AGAIN + self.core.backoff.next(error.retry_after);
            channel.status = Status::Wanted(Some(Instant::now() + wait));
        }
    }

    fn settle(&mut self, id: u64, answer: Result<Frame, Error>) {
        if let Some(pending) = self.core.pending.remove(&id) {
            // Whoever asked may be gone.
            let _ = pending.done.send(answer);
        }
    }

    fn ended(&self, error: Error) -> Error {
        // Only its last channel is over; others may be asked for.
        let is_of_channel = self.channel_end != 0 && error.status == Some(self.channel_end);
        Error { temporary: error.temporary || is_of_channel, ..error }
    }

    /// When something is to be done that nobody says.
    fn due(&self) -> Instant {
        let life = self.pinged.map_or(self.last_life + self.quiet, |at| at + self.core.gateway.pong);
        // While something waits to be sent, what else is to be sent has time.
        let again =
            self.core.channels.values().filter(|_| self.next.is_none()).filter_map(|channel| match channel.status {
                Status::Wanted(at) => at,
                _ => None,
            });
        again.chain([life]).chain(self.refresh_at).chain(self.stable_at).min().unwrap_or(life)
    }

    fn on_time(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            let token = self.core.token.clone();
            self.refreshing = Some(tokio::spawn(async move { token.get().await }));
        }
        if self.stable_at.is_some_and(|at| at <= now) {
            self.stable_at = None;
            self.core.backoff.reset();
        }
        self.has_work = true;
        match self.pinged {
            Some(at) if now >= at + self.core.gateway.pong => {
                Err(Error::temporary("ping_timeout", "the gateway showed no sign of life"))
            }
            None if now >= self.last_life + self.quiet => {
                if !self.is_welcome {
                    return Err(Error::temporary("timeout", "the gateway said no welcome in time"));
                }
                self.pinged = Some(now);
                // With a full queue the gateway's pings are the sign of life.
                let _ = self.out.try_send(Message::text(r#"{"type":"ping"}"#));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn refresh(&mut self, token: String) {
        let id = self.core.next_id();
        let token = serde_json::Value::from(token);
        self.core.first.push_back(format!(r#"{{"type":"refresh","id":"{id}","token":{token}}}"#));
        self.has_work = true;
    }

    /// Gets a new token when the last tenth of the old one's time begins, or a minute before its end.
    fn refresh_before(&mut self, expires: Option<&str>) {
        self.refresh_at = None;
        let expires = expires.filter(|_| self.core.token.is_renewable());
        let Some(expires) = expires.and_then(|expires| expires.parse::<jiff::Timestamp>().ok()) else { return };
        // A clock that is wrong, or a token that is not newer: the gateway says when it is over.
        let Ok(left) = Duration::try_from(expires.duration_since(jiff::Timestamp::now())) else { return };
        let early = (left / 10).min(Duration::from_secs(60));
        if left - early > Duration::from_millis(500) {
            self.refresh_at = Some(Instant::now() + (left - early).min(FAR));
        }
    }
}
