//! The task of a client: keeps a connection as long as something is wanted, and tries again when it ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::channel::{Channel, Status};
use super::session::Session;
use super::subscription::{Events, SubscribeOptions};
use super::{State, TokenSource};
use crate::backoff::Backoff;
use crate::frame::Frame;
use crate::socket::Socket;
use crate::{Error, Gateway};

/// Commands that wait for the task.
const COMMANDS: usize = 16;

/// Replies that may wait for a connection or an answer.
const MAX_PENDING: usize = 1000;

/// After a life of that length a connection that ended for its token is opened anew without a wait.
const HAD_A_LIFE: Duration = Duration::from_secs(1);

const TOKEN_EXPIRED: u16 = 4003;

/// Uses a client's task.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    wake: Arc<Notify>,
    state: watch::Receiver<State>,
}

pub(super) enum Command {
    Subscribe(Box<Channel>, oneshot::Sender<Result<(), Error>>),
    Request(Pending),
    Close,
}

/// A reply that is not answered.
pub(super) struct Pending {
    /// The members of the frame besides `type` and `id`.
    pub members: String,
    /// `answer` is awaited, not `replied`.
    pub is_question: bool,
    pub is_sent: bool,
    pub done: oneshot::Sender<Result<Frame, Error>>,
}

/// Nothing is to be done any more.
pub(super) struct Over;

pub(super) struct Actor {
    pub gateway: Gateway,
    pub token: TokenSource,
    pub commands: mpsc::Receiver<Command>,
    pub wake: Arc<Notify>,
    pub backoff: Backoff,
    pub channels: HashMap<String, Channel>,
    pub pending: HashMap<u64, Pending>,
    /// Channels that nobody listens to here and the gateway does not know that.
    pub left: Vec<Channel>,
    /// Frames that go before anything else.
    pub first: VecDeque<String>,
    state: watch::Sender<State>,
    ids: u64,
}

impl Handle {
    pub(super) fn open(gateway: Gateway, token: TokenSource) -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (state, states) = watch::channel(State::Idle);
        let wake = Arc::<Notify>::default();
        let actor = Actor {
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
        tokio::spawn(actor.run());
        Self { commands: sender, wake, state: states }
    }

    pub(super) async fn subscribe(&self, name: &str, options: SubscribeOptions) -> Result<Events, Error> {
        let (channel, events, shared) = Channel::new(name, options);
        let (done, answer) = oneshot::channel();
        self.command(Command::Subscribe(Box::new(channel), done)).await?;
        answer.await.unwrap_or_else(|_| Err(self.error()))?;
        Ok(Events::new(name, self.clone(), events, shared))
    }

    pub(super) async fn request(&self, members: String, is_question: bool) -> Result<Frame, Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::Request(Pending { members, is_question, is_sent: false, done })).await?;
        answer.await.unwrap_or_else(|_| Err(self.error()))
    }

    pub(super) async fn close(&self) {
        // It may be over already.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// A reader took something, or is gone.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.error())
    }

    /// Why the task is over.
    fn error(&self) -> Error {
        match &*self.state.borrow() {
            State::Failed(error) => error.clone(),
            _ => Error::closed(),
        }
    }
}

impl Actor {
    async fn run(mut self) {
        let (state, error) = match self.work().await {
            Ok(Over) => (State::Closed, None),
            Err(error) => (State::Failed(error.clone()), Some(error)),
        };
        self.become_(state);
        self.commands.close();
        self.channels.drain().for_each(|(_, channel)| channel.end(error.clone()));
        for (_, pending) in self.pending.drain() {
            let _ = pending.done.send(Err(error.clone().unwrap_or_else(Error::closed)));
        }
    }

    /// Until the client is closed, or fails.
    async fn work(&mut self) -> Result<Over, Error> {
        loop {
            while self.channels.is_empty() && self.pending.is_empty() {
                self.become_(State::Idle);
                let Some(command) = self.commands.recv().await else { return Ok(Over) };
                if self.take(command).is_err() {
                    return Ok(Over);
                }
            }
            self.become_(State::Connecting);
            let began = Instant::now();
            let Ok(opened) = self.open().await else { return Ok(Over) };
            let error = match opened {
                Ok((socket, hello)) => match Session::new(self, socket, hello).run().await {
                    Ok(over) => return Ok(over),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.interrupted();
            if !error.temporary {
                return Err(error);
            }
            if self.channels.is_empty() && self.pending.is_empty() {
                continue;
            }
            let is_at_once = error.status == Some(TOKEN_EXPIRED) && began.elapsed() > HAD_A_LIFE;
            let wait = if is_at_once { Duration::ZERO } else { self.backoff.next(error.retry_after) };
            self.become_(State::Waiting(error));
            if self.meanwhile(sleep_until(Instant::now() + wait)).await.is_err() {
                return Ok(Over);
            }
        }
    }

    /// A connection and the `hello` that it begins with.
    async fn open(&mut self) -> Result<Result<(Socket, String), Error>, Over> {
        let (gateway, token) = (self.gateway.clone(), self.token.clone());
        self.meanwhile(async move {
            let token = token.get().await?;
            let socket = Socket::open(&gateway, "/v1/subscribe", None).await?;
            let token = token.map_or(String::new(), |token| format!(r#","token":{}"#, serde_json::Value::from(token)));
            Ok((socket, format!(r#"{{"type":"hello"{token}}}"#)))
        })
        .await
    }

    /// Takes commands until something else is done.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Over> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Ok(done),
                command = self.commands.recv() => self.take(command.ok_or(Over)?)?,
                () = self.wake.notified() => self.look(),
            }
        }
    }

    pub(super) fn take(&mut self, command: Command) -> Result<(), Over> {
        match command {
            Command::Close => return Err(Over),
            Command::Subscribe(channel, done) => {
                self.look();
                let result = if self.channels.contains_key(&channel.name) {
                    Err(Error::new("already_subscribed", "this channel has a subscription already"))
                } else {
                    self.channels.insert(channel.name.clone(), *channel);
                    Ok(())
                };
                // Who does not wait for it has no subscription either, which is seen at the next look.
                let _ = done.send(result);
            }
            Command::Request(pending) if self.pending.len() >= MAX_PENDING => {
                let _ = pending.done.send(Err(Error::temporary("rate_limited", "too many replies are on their way")));
            }
            Command::Request(pending) => {
                let id = self.next_id();
                self.pending.insert(id, pending);
            }
        }
        Ok(())
    }

    /// Readers took something, or are gone.
    pub(super) fn look(&mut self) {
        self.left.extend(self.channels.extract_if(|_, channel| channel.is_left()).map(|(_, channel)| channel));
        self.channels.values_mut().for_each(Channel::resume);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The next frame to send, if there is one. In this order: who leaves a channel may come back to it.
    pub(super) fn next_frame(&mut self) -> Option<String> {
        if let Some(first) = self.first.pop_front() {
            return Some(first);
        }
        let id = self.next_id();
        if let Some(channel) = self.left.pop() {
            let is_known = matches!(channel.status, Status::Asked(_) | Status::Active);
            return if is_known { Some(channel.unsubscribe(id)) } else { self.next_frame() };
        }
        let now = Instant::now();
        let due =
            |channel: &&mut Channel| matches!(channel.status, Status::Wanted(at) if at.is_none_or(|at| at <= now));
        if let Some(channel) = self.channels.values_mut().find(due) {
            return Some(channel.subscribe(id));
        }
        // Replies go after what they may belong to.
        let next = self.pending.iter_mut().filter(|(_, pending)| !pending.is_sent).min_by_key(|(id, _)| **id)?;
        next.1.is_sent = true;
        Some(format!(r#"{{"type":"reply","id":"{}",{}}}"#, next.0, next.1.members))
    }

    pub(super) fn become_(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The connection is gone. Nobody knows whether a reply that was sent arrived, so it is not sent again.
    fn interrupted(&mut self) {
        self.look();
        self.left.clear();
        self.first.clear();
        self.channels.values_mut().for_each(Channel::suspend);
        for (_, pending) in self.pending.extract_if(|_, pending| pending.is_sent) {
            let _ = pending.done.send(Err(Error::lost("the connection broke before the answer")));
        }
    }
}
