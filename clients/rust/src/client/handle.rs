//! Access to the client's task: sends commands, observes the state.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::channel::Channel;
use super::state::State;
use crate::error::Error;
use crate::frame::Frame;

/// A reference to the client's task, which ends with the last handle.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub commands: mpsc::Sender<Command>,
    pub wake: Arc<Notify>,
    pub state: watch::Receiver<State>,
}

pub(super) enum Command {
    Subscribe(Box<Channel>, oneshot::Sender<Result<(), Error>>),
    Request(PendingReply),
    Close,
}

/// A reply without a response.
pub(super) struct PendingReply {
    /// Members of the frame besides `type` and `id`.
    pub members: String,
    /// Completes with `answer` instead of `replied`.
    pub expects_answer: bool,
    pub is_sent: bool,
    pub done: oneshot::Sender<Result<Frame, Error>>,
}

impl Handle {
    pub(super) async fn subscribe(&self, channel: Channel) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::Subscribe(Box::new(channel), done)).await?;
        answer.await.unwrap_or_else(|_| Err(self.error()))
    }

    pub(super) async fn request(&self, members: String, expects_answer: bool) -> Result<Frame, Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::Request(PendingReply { members, expects_answer, is_sent: false, done })).await?;
        answer.await.unwrap_or_else(|_| Err(self.error()))
    }

    pub(super) async fn close(&self) {
        // The task may have ended already.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Called when a reader drained its queue or was dropped.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.error())
    }

    /// Why the task ended.
    fn error(&self) -> Error {
        match &*self.state.borrow() {
            State::Failed(error) => error.clone(),
            _ => Error::closed(),
        }
    }
}
