//! Messages of one connection that are carried out one after the other, each of which may wait.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::protocol::CloseReason;

/// What carries out messages. An error ends the connection.
pub trait HandleCommand: Send + Sized + 'static {
    fn on_text(&mut self, text: &str) -> impl Future<Output = Result<(), CloseReason>> + Send;
}

/// While a message waits, those behind it wait too; no more is read from the peer, so they are what one read held.
pub enum CommandSequencer<C> {
    Idle(C),
    Busy(Box<Busy<C>>),
    /// A message ended the connection.
    Closed,
}

pub struct Busy<C> {
    work: Pin<Box<dyn Future<Output = Result<C, CloseReason>> + Send>>,
    behind: VecDeque<String>,
}

impl<C: HandleCommand> CommandSequencer<C> {
    /// What carries out the messages, unless one is being carried out.
    pub fn idle(&mut self) -> Option<&mut C> {
        match self {
            Self::Idle(commands) => Some(commands),
            _ => None,
        }
    }

    pub fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match std::mem::replace(self, Self::Closed) {
            Self::Idle(commands) => {
                let text = text.to_owned();
                *self = Self::Busy(Box::new(Busy { work: begin(commands, text), behind: VecDeque::new() }));
                // Most messages wait for nothing. What does is polled again before the next read.
                match self.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(done) => done,
                    Poll::Pending => Ok(()),
                }
            }
            Self::Busy(mut busy) => {
                busy.behind.push_back(text.to_owned());
                *self = Self::Busy(busy);
                Ok(())
            }
            Self::Closed => Ok(()),
        }
    }

    /// Ready when every message so far was carried out.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while let Self::Busy(busy) = self {
            match std::task::ready!(busy.work.as_mut().poll(cx)) {
                Ok(commands) => match busy.behind.pop_front() {
                    Some(text) => busy.work = begin(commands, text),
                    None => *self = Self::Idle(commands),
                },
                Err(reason) => {
                    *self = Self::Closed;
                    return Poll::Ready(Err(reason));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn begin<C: HandleCommand>(
    mut commands: C,
    text: String,
) -> Pin<Box<dyn Future<Output = Result<C, CloseReason>> + Send>> {
    Box::pin(async move { commands.on_text(&text).await.map(|()| commands) })
}
