//! What a client wants of the gateway, over all of its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::channel::{Channel, Status};
use super::handle::{Command, PendingReply};
use super::state::State;
use super::token::TokenSource;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::gateway::Gateway;

/// Replies that may wait for a connection or an answer.
const MAX_PENDING_REPLIES: usize = 1000;

/// Nothing is to be done any more.
pub(super) struct Closed;

pub(super) struct Core {
    pub gateway: Gateway,
    pub token: TokenSource,
    pub commands: mpsc::Receiver<Command>,
    pub wake: Arc<Notify>,
    pub backoff: Backoff,
    pub channels: HashMap<String, Channel>,
    pub pending: HashMap<u64, PendingReply>,
    /// Channels that nobody listens to here and the gateway does not know that.
    pub to_unsubscribe: Vec<Channel>,
    /// Frames that go before anything else.
    pub priority_frames: VecDeque<String>,
    pub state: watch::Sender<State>,
    pub last_id: u64,
}

impl Core {
    /// Takes commands until something else is done.
    pub(super) async fn run_until<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Closed> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Ok(done),
                command = self.commands.recv() => self.on_command(command.ok_or(Closed)?)?,
                () = self.wake.notified() => self.reap_closed(),
            }
        }
    }

    pub(super) fn on_command(&mut self, command: Command) -> Result<(), Closed> {
        match command {
            Command::Close => return Err(Closed),
            Command::Subscribe(channel, done) => {
                self.reap_closed();
                let result = if self.channels.contains_key(&channel.name) {
                    Err(Error::new("already_subscribed", "this channel has a subscription already"))
                } else {
                    self.channels.insert(channel.name.clone(), *channel);
                    Ok(())
                };
                // Who does not wait for it has no subscription either, which is seen at the next look.
                let _ = done.send(result);
            }
            Command::Request(pending) if self.pending.len() >= MAX_PENDING_REPLIES => {
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
    pub(super) fn reap_closed(&mut self) {
        self.to_unsubscribe
            .extend(self.channels.extract_if(|_, channel| channel.is_abandoned()).map(|(_, channel)| channel));
        self.channels.values_mut().for_each(Channel::resume_if_drained);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The next frame to send, if there is one. In this order: who leaves a channel may come back to it.
    pub(super) fn next_frame(&mut self) -> Option<String> {
        if let Some(first) = self.priority_frames.pop_front() {
            return Some(first);
        }
        let id = self.next_id();
        if let Some(channel) = self.to_unsubscribe.pop() {
            let is_known = matches!(channel.status, Status::Requested(_) | Status::Active);
            return if is_known { Some(channel.unsubscribe(id)) } else { self.next_frame() };
        }
        let now = Instant::now();
        let due =
            |channel: &&mut Channel| matches!(channel.status, Status::ToRequest(at) if at.is_none_or(|at| at <= now));
        if let Some(channel) = self.channels.values_mut().find(due) {
            return Some(channel.subscribe(id));
        }
        // Replies go after what they may belong to.
        let next = self.pending.iter_mut().filter(|(_, pending)| !pending.is_sent).min_by_key(|(id, _)| **id)?;
        next.1.is_sent = true;
        Some(format!(r#"{{"type":"reply","id":"{}",{}}}"#, next.0, next.1.members))
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The connection is gone. Nobody knows whether a reply that was sent arrived, so it is not sent again.
    pub(super) fn on_disconnect(&mut self) {
        self.reap_closed();
        self.to_unsubscribe.clear();
        self.priority_frames.clear();
        self.channels.values_mut().for_each(Channel::on_disconnect);
        for (_, pending) in self.pending.extract_if(|_, pending| pending.is_sent) {
            let _ = pending.done.send(Err(Error::connection_lost("the connection broke before the answer")));
        }
    }
}
