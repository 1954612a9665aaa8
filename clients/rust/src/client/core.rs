//! What a client wants of the gateway, over all of its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::channel::{Channel, Status};
use super::handle::{Command, Pending};
use super::state::State;
use super::token::TokenSource;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::gateway::Gateway;

/// Replies that may wait for a connection or an answer.
const MAX_PENDING: usize = 1000;

/// Nothing is to be done any more.
pub(super) struct Over;

pub(super) struct Core {
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
    pub state: watch::Sender<State>,
    pub ids: u64,
}

impl Core {
    /// Takes commands until something else is done.
    pub(super) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Over> {
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
    pub(super) fn interrupted(&mut self) {
        self.look();
        self.left.clear();
        self.first.clear();
        self.channels.values_mut().for_each(Channel::suspend);
        for (_, pending) in self.pending.extract_if(|_, pending| pending.is_sent) {
            let _ = pending.done.send(Err(Error::lost("the connection broke before the answer")));
        }
    }
}
