//! The task of a room: keeps the connection and resumes the seat after a loss.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::event::{RoomEvent, RoomFrame};
use crate::connection::Connection;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::json;
use crate::socket::{Socket, Upgrade};
use crate::token::TokenSource;

/// The gateway pings more often (`rooms.heartbeat_interval_secs`).
const MAX_SILENCE: Duration = Duration::from_secs(90);

type Events = mpsc::Sender<Result<RoomEvent, Error>>;

pub(super) struct RoomTask {
    gateway: Gateway,
    token: TokenSource,
    path: String,
    queue: mpsc::Receiver<String>,
    events: Events,
    seat: Option<Seat>,
    /// The gateway accepted the seat on this connection.
    is_joined: bool,
    /// When resuming is given up.
    retry_until: Option<Instant>,
}

/// Resumes a seat.
struct Seat {
    secret: String,
    /// Number of the newest message received.
    seen: u64,
}

/// The caller left.
struct Left;

impl RoomTask {
    pub(super) fn new(
        gateway: Gateway,
        token: TokenSource,
        path: String,
        queue: mpsc::Receiver<String>,
        events: Events,
    ) -> Self {
        Self { gateway, token, path, queue, events, seat: None, is_joined: false, retry_until: None }
    }

    pub(super) async fn run(mut self, first_frame: String) {
        if let Err(error) = self.run_connections(first_frame).await {
            // The caller may have left.
            let _ = self.events.send(Err(error)).await;
        }
    }

    async fn run_connections(&mut self, mut first_frame: String) -> Result<Left, Error> {
        let mut backoff = self.gateway.backoff();
        let events = self.events.clone();
        loop {
            let opened = tokio::select! {
                opened = self.open() => opened,
                () = events.closed() => return Ok(Left),
            };
            let error = match opened {
                Ok(connection) => match self.run_connection(connection, first_frame).await {
                    Ok(left) => return Ok(left),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if self.is_joined {
                (self.is_joined, self.retry_until) = (false, None);
                backoff.reset();
            }
            let now = Instant::now();
            let until = *self.retry_until.get_or_insert(now + self.gateway.retry_for);
            let wait = backoff.next(error.retry_after);
            let Some(seat) = self.seat.as_ref().filter(|_| error.temporary && now + wait < until) else {
                return Err(error);
            };
            first_frame =
                format!(r#"{{"type":"resume","resume":{},"seen":{}}}"#, json::write(&seat.secret)?, seat.seen);
            if events.send(Ok(RoomEvent::Reconnecting(error))).await.is_err() {
                return Ok(Left);
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = events.closed() => return Ok(Left),
            }
        }
    }

    async fn open(&self) -> Result<Connection, Error> {
        let token = self.token.get().await?;
        let upgrade = Upgrade::Pair { token: token.as_deref() };
        Socket::open(&self.gateway, &self.path, upgrade).await.map(Connection::new)
    }

    async fn run_connection(&mut self, mut connection: Connection, first_frame: String) -> Result<Left, Error> {
        connection.send(first_frame).await?;
        let events = self.events.clone();
        loop {
            let next_frame = async {
                // A frame is read once there is space for its event.
                let permit = events.reserve().await.ok()?;
                Some((permit, connection.next_text(MAX_SILENCE).await))
            };
            tokio::select! {
                received = next_frame => {
                    let Some((permit, text)) = received else { return Ok(self.leave(connection).await) };
                    let frame = RoomFrame::parse(&text?)?;
                    self.on_frame(&frame);
                    if let Some(event) = frame.into_event() {
                        permit.send(Ok(event));
                    }
                }
                Some(frame) = self.queue.recv(), if self.is_joined => connection.send(frame).await?,
                () = events.closed() => return Ok(self.leave(connection).await),
            }
        }
    }

    fn on_frame(&mut self, frame: &RoomFrame) {
        match frame.r#type.as_str() {
            "joined" => {
                self.path = format!("/v1/rooms/{}", frame.room);
                let seen = self.seat.as_ref().map_or(0, |seat| seat.seen);
                self.seat = Some(Seat { secret: frame.resume.clone(), seen });
                self.is_joined = true;
            }
            "message" => {
                if let Some(seat) = &mut self.seat {
                    seat.seen = frame.seq;
                }
            }
            _ => {}
        }
    }

    /// Sends the queued frames and `leave`, then closes the connection.
    async fn leave(&mut self, mut connection: Connection) -> Left {
        while self.is_joined
            && let Ok(frame) = self.queue.try_recv()
        {
            // A broken connection gives the seat up as well, after `rooms.resume_secs`.
            let _ = connection.send(frame).await;
        }
        let _ = connection.send(r#"{"type":"leave"}"#).await;
        connection.close().await;
        Left
    }
}
