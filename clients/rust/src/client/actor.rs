//! The task of a client: keeps a connection as long as something is wanted, and tries again when it ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::core::{Core, Over};
use super::handle::Handle;
use super::session::Session;
use super::state::State;
use super::token::TokenSource;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::socket::Socket;

/// Commands that wait for the task.
const COMMANDS: usize = 16;

/// After a life of that length a connection that ended for its token is opened anew without a wait.
const HAD_A_LIFE: Duration = Duration::from_secs(1);

const TOKEN_EXPIRED: u16 = 4003;

struct Actor {
    core: Core,
}

/// Starts the task of a client.
pub(super) fn start(gateway: Gateway, token: TokenSource) -> Handle {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (state, states) = watch::channel(State::Idle);
    let wake = Arc::<Notify>::default();
    let core = Core {
        backoff: gateway.backoff(),
        gateway,
        token,
        commands,
        wake: wake.clone(),
        channels: HashMap::new(),
        pending: HashMap::new(),
        left: Vec::new(),
        first: VecDeque::new(),
        state,
        ids: 0,
    };
    tokio::spawn(Actor { core }.run());
    Handle { commands: sender, wake, state: states }
}

impl Actor {
    async fn run(mut self) {
        let (state, error) = match self.work().await {
            Ok(Over) => (State::Closed, None),
            Err(error) => (State::Failed(error.clone()), Some(error)),
        };
        self.core.become_(state);
        self.core.commands.close();
        self.core.channels.drain().for_each(|(_, channel)| channel.end(error.clone()));
        for (_, pending) in self.core.pending.drain() {
            let _ = pending.done.send(Err(error.clone().unwrap_or_else(Error::closed)));
        }
    }

    /// Until the client is closed, or fails.
    async fn work(&mut self) -> Result<Over, Error> {
        loop {
            while self.core.channels.is_empty() && self.core.pending.is_empty() {
                self.core.become_(State::Idle);
                let Some(command) = self.core.commands.recv().await else { return Ok(Over) };
                if self.core.take(command).is_err() {
                    return Ok(Over);
                }
            }
            self.core.become_(State::Connecting);
            let began = Instant::now();
            let Ok(opened) = self.open().await else { return Ok(Over) };
            let error = match opened {
                Ok((socket, hello)) => match Session::new(&mut self.core, socket, hello).run().await {
                    Ok(over) => return Ok(over),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.core.interrupted();
            if !error.temporary {
                return Err(error);
            }
            if self.core.channels.is_empty() && self.core.pending.is_empty() {
                continue;
            }
            let is_at_once = error.status == Some(TOKEN_EXPIRED) && began.elapsed() > HAD_A_LIFE;
            let wait = if is_at_once { Duration::ZERO } else { self.core.backoff.next(error.retry_after) };
            self.core.become_(State::Waiting(error));
            if self.core.meanwhile(sleep_until(Instant::now() + wait)).await.is_err() {
                return Ok(Over);
            }
        }
    }

    /// A connection and the `hello` that it begins with.
    async fn open(&mut self) -> Result<Result<(Socket, String), Error>, Over> {
        let (gateway, token) = (self.core.gateway.clone(), self.core.token.clone());
        self.core
            .meanwhile(async move {
                let token = token.get().await?;
                let socket = Socket::open(&gateway, "/v1/subscribe", None).await?;
                let token =
                    token.map_or(String::new(), |token| format!(r#","token":{}"#, serde_json::Value::from(token)));
                Ok((socket, format!(r#"{{"type":"hello"{token}}}"#)))
            })
            .await
    }
}
