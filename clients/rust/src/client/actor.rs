//! The client's task: keeps a connection while there are subscriptions or replies, and reconnects.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::core::{Closed, Core};
use super::handle::Handle;
use super::session::Session;
use super::state::State;
use super::tokens::{NextToken, Tokens};
use crate::error::Error;
use crate::gateway::Gateway;
use crate::socket::{Socket, Upgrade};
use crate::token::TokenSource;

/// Commands in the task's queue.
const COMMAND_QUEUE: usize = 16;

/// A session of at least this length that ended with an expired token is reopened without a wait.
const MIN_SESSION_BEFORE_IMMEDIATE_RETRY: Duration = Duration::from_secs(1);

const TOKEN_EXPIRED_CLOSE_CODE: u16 = 4003;
const UNAUTHENTICATED_CLOSE_CODE: u16 = 4501;

struct Actor {
    core: Core,
}

/// Starts the task of a client.
pub(super) fn start(gateway: Gateway, token: TokenSource) -> Handle {
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let (state, states) = watch::channel(State::Idle);
    let wake = Arc::<Notify>::default();
    let core = Core {
        backoff: gateway.backoff(),
        gateway,
        tokens: Tokens::new(token),
        commands,
        wake: wake.clone(),
        channels: HashMap::new(),
        pending: HashMap::new(),
        to_unsubscribe: Vec::new(),
        priority_frames: VecDeque::new(),
        state,
        last_id: 0,
    };
    tokio::spawn(Actor { core }.run());
    Handle { commands: sender, wake, state: states }
}

impl Actor {
    async fn run(mut self) {
        let (state, error) = match self.run_connections().await {
            Ok(Closed) => (State::Closed, None),
            Err(error) => (State::Failed(error.clone()), Some(error)),
        };
        self.core.set_state(state);
        self.core.commands.close();
        self.core.channels.drain().for_each(|(_, channel)| channel.end(error.clone()));
        for (_, pending) in self.core.pending.drain() {
            let _ = pending.done.send(Err(error.clone().unwrap_or_else(Error::closed)));
        }
    }

    /// Runs until the client is closed or fails for good.
    async fn run_connections(&mut self) -> Result<Closed, Error> {
        loop {
            while self.core.channels.is_empty() && self.core.pending.is_empty() {
                self.core.set_state(State::Idle);
                let Some(command) = self.core.commands.recv().await else { return Ok(Closed) };
                if self.core.on_command(command).is_err() {
                    return Ok(Closed);
                }
            }
            self.core.set_state(State::Connecting);
            let began = Instant::now();
            let Ok(opened) = self.open().await else { return Ok(Closed) };
            let error = match opened {
                Ok((socket, hello)) => match Session::new(&mut self.core, socket, hello).run().await {
                    Ok(closed) => return Ok(closed),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.core.on_disconnect();
            let next_token = match error.status {
                Some(UNAUTHENTICATED_CLOSE_CODE) => self.core.tokens.on_refused(),
                _ => NextToken::Never,
            };
            if !error.temporary && next_token == NextToken::Never {
                return Err(error);
            }
            if error.status == Some(TOKEN_EXPIRED_CLOSE_CODE) {
                self.core.tokens.drop_cached();
            }
            if self.core.channels.is_empty() && self.core.pending.is_empty() {
                continue;
            }
            let is_expiry =
                error.status == Some(TOKEN_EXPIRED_CLOSE_CODE) && began.elapsed() > MIN_SESSION_BEFORE_IMMEDIATE_RETRY;
            let wait = if is_expiry || next_token == NextToken::Now {
                Duration::ZERO
            } else {
                self.core.backoff.next(error.retry_after)
            };
            self.core.set_state(State::Waiting(error));
            if self.core.run_until(sleep_until(Instant::now() + wait)).await.is_err() {
                return Ok(Closed);
            }
        }
    }

    /// Opens a connection and builds its `hello` frame.
    async fn open(&mut self) -> Result<Result<(Socket, String), Error>, Closed> {
        let token = match self.core.tokens.cached(SystemTime::now()) {
            Some(token) => Some(token),
            None => {
                let source = self.core.tokens.source.clone();
                let token = match self.core.run_until(async move { source.get().await }).await? {
                    Ok(token) => token,
                    Err(error) => return Ok(Err(error)),
                };
                token.inspect(|token| self.core.tokens.store(token.clone(), SystemTime::now()))
            }
        };
        let gateway = self.core.gateway.clone();
        let opening = async move { Socket::open(&gateway, "/v1/subscribe", Upgrade::Subscriber).await };
        let socket = self.core.run_until(opening).await?;
        let token = token.map_or(String::new(), |token| format!(r#","token":{}"#, serde_json::Value::from(token)));
        Ok(socket.map(|socket| (socket, format!(r#"{{"type":"hello"{token}}}"#))))
    }
}
