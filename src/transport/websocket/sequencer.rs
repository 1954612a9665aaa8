//! Executes the commands of one connection in order; each may wait.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::protocol::CloseReason;

/// Executes commands. An error closes the connection.
pub trait HandleCommand: Send + Sized + 'static {
    fn on_text(&mut self, text: &str) -> impl Future<Output = Result<(), CloseReason>> + Send;
}

/// Commands behind a waiting one are queued. Nothing is read meanwhile, so they are the rest of one read.
pub enum CommandSequencer<C> {
    Idle(C),
    Busy(Box<Busy<C>>),
    /// A command closed the connection.
    Closed,
}

pub struct Busy<C> {
    running: Pin<Box<dyn Future<Output = Result<C, CloseReason>> + Send>>,
    queued: VecDeque<String>,
}

impl<C: HandleCommand> CommandSequencer<C> {
    /// The command handler, unless a command is running.
    pub fn idle(&mut self) -> Option<&mut C> {
        match self {
            Self::Idle(handler) => Some(handler),
            _ => None,
        }
    }

    pub fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match std::mem::replace(self, Self::Closed) {
            Self::Idle(handler) => {
                let text = text.to_owned();
                *self = Self::Busy(Box::new(Busy { running: begin(handler, text), queued: VecDeque::new() }));
                // Most commands complete at once. A pending one is polled again before the next read.
                match self.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(done) => done,
                    Poll::Pending => Ok(()),
                }
            }
            Self::Busy(mut busy) => {
                busy.queued.push_back(text.to_owned());
                *self = Self::Busy(busy);
                Ok(())
            }
            Self::Closed => Ok(()),
        }
    }

    /// Ready when all commands so far are complete.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        while let Self::Busy(busy) = self {
            match std::task::ready!(busy.running.as_mut().poll(cx)) {
                Ok(handler) => match busy.queued.pop_front() {
                    Some(text) => busy.running = begin(handler, text),
                    None => *self = Self::Idle(handler),
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
    mut handler: C,
    text: String,
) -> Pin<Box<dyn Future<Output = Result<C, CloseReason>> + Send>> {
    Box::pin(async move { handler.on_text(&text).await.map(|()| handler) })
}
