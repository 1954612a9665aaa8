//! State that outlives a connection: subscriptions, pending replies and commands.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::channel::{Channel, Status};
use super::handle::{Command, PendingReply};
use super::state::State;
use super::tokens::Tokens;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::gateway::Gateway;

/// Replies without a connection or a response.
const MAX_PENDING_REPLIES: usize = 1000;

/// The client was closed, or its last handle was dropped.
pub(super) struct Closed;

pub(super) struct Core {
    pub gateway: Gateway,
    pub tokens: Tokens,
    pub commands: mpsc::Receiver<Command>,
    pub wake: Arc<Notify>,
    pub backoff: Backoff,
    pub channels: HashMap<String, Channel>,
    pub pending: HashMap<u64, PendingReply>,
    /// Channels without a reader, which the gateway still delivers.
    pub to_unsubscribe: Vec<Channel>,
    /// Frames that are sent before all others.
    pub priority_frames: VecDeque<String>,
    pub state: watch::Sender<State>,
    pub last_id: u64,
}

impl Core {
    /// Handles commands until `other` completes.
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
                    Err(Error::new("already_subscribed", "the channel already has a subscription"))
                } else {
                    self.channels.insert(channel.name.clone(), *channel);
                    Ok(())
                };
                // A caller that gave up dropped the reader, so the next `reap_closed` removes the channel.
                let _ = done.send(result);
            }
            Command::Request(pending) if self.pending.len() >= MAX_PENDING_REPLIES => {
                let _ = pending.done.send(Err(Error::temporary("rate_limited", "too many pending replies")));
            }
            Command::Request(pending) => {
                let id = self.next_id();
                self.pending.insert(id, pending);
            }
        }
        Ok(())
    }

    /// Removes channels without a reader and resumes paused ones.
    pub(super) fn reap_closed(&mut self) {
        self.to_unsubscribe
            .extend(self.channels.extract_if(|_, channel| channel.is_abandoned()).map(|(_, channel)| channel));
        self.channels.values_mut().for_each(Channel::resume_if_drained);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Returns the next frame to send. `unsubscribe` precedes `subscribe`, so a channel can be left and joined again.
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
        // Replies follow the subscriptions that they may depend on.
        let next = self.pending.iter_mut().filter(|(_, pending)| !pending.is_sent).min_by_key(|(id, _)| **id)?;
        next.1.is_sent = true;
        Some(format!(r#"{{"type":"reply","id":"{}",{}}}"#, next.0, next.1.members))
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Resets the connection's state. The outcome of a sent reply is unknown, so it fails and is not sent again.
    pub(super) fn on_disconnect(&mut self) {
        self.reap_closed();
        self.to_unsubscribe.clear();
        self.priority_frames.clear();
        self.channels.values_mut().for_each(Channel::on_disconnect);
        for (_, pending) in self.pending.extract_if(|_, pending| pending.is_sent) {
            let _ = pending.done.send(Err(Error::connection_lost("connection lost before the response")));
        }
    }
}
