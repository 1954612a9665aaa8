//! Answers of a publish stream, sent in the order of its commands.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::broker::channel::fanout::Backpressure;
use crate::broker::engine::Stored;
use crate::broker::replies::PendingOutcome;
use crate::protocol::frame::server_frame::{ServerFrame, published};
use crate::protocol::websocket::text_frame;
use crate::protocol::{ChannelName, ErrorCode, Refusal};

/// No more is read from the publisher while this many answers are pending.
const MAX_PENDING_ANSWERS: usize = 4096;

/// An answer in its order.
pub enum PendingAnswer {
    Publication {
        id: Option<String>,
        channel: ChannelName,
        stored: oneshot::Receiver<Result<Stored, Refusal>>,
    },
    /// The outcome of a reply that another node keeps.
    Reply {
        id: Option<String>,
        is_answer: bool,
        outcome: PendingOutcome,
    },
    /// The counts of other nodes for a channel to be watched.
    Watch {
        id: Option<String>,
        channel: ChannelName,
        remote_counts: BoxFuture<'static, Vec<(String, u64)>>,
    },
    Unwatch {
        id: Option<String>,
        channel: ChannelName,
    },
    Known(String),
}

/// A step that the stream itself must do now, before later answers.
pub enum DueStep {
    Watch { id: Option<String>, channel: ChannelName, remote_counts: Vec<(String, u64)> },
    Unwatch { id: Option<String>, channel: ChannelName },
    Wait(Backpressure),
}

#[derive(Default)]
pub struct OrderedAnswers {
    /// Encoded answers of one read, to be written together.
    pub frames: BytesMut,
    pending: VecDeque<PendingAnswer>,
}

impl OrderedAnswers {
    pub fn push(&mut self, json: String) {
        match self.pending.is_empty() {
            true => self.write(&json),
            false => self.pending.push_back(PendingAnswer::Known(json)),
        }
    }

    pub fn push_pending(&mut self, answer: PendingAnswer) {
        self.pending.push_back(answer);
    }

    /// Writes an answer ahead of the pending ones.
    pub fn write(&mut self, json: &str) {
        self.frames.extend_from_slice(&text_frame(json.as_bytes()));
    }

    pub fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING_ANSWERS
    }

    /// Writes the answers that are known by now. Pending once the first of the rest is unknown.
    pub fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<DueStep> {
        while let Some(first) = self.pending.front_mut() {
            let mut due = None;
            match first {
                PendingAnswer::Known(json) => {
                    let json = std::mem::take(json);
                    self.write(&json);
                }
                PendingAnswer::Watch { id, channel, remote_counts } => {
                    let Poll::Ready(remote_counts) = remote_counts.as_mut().poll(cx) else { return Poll::Pending };
                    due = Some(DueStep::Watch { id: id.take(), channel: channel.clone(), remote_counts });
                }
                PendingAnswer::Unwatch { id, channel } => {
                    due = Some(DueStep::Unwatch { id: id.take(), channel: channel.clone() });
                }
                PendingAnswer::Reply { id, is_answer, outcome } => {
                    let Poll::Ready(outcome) = Pin::new(outcome).poll(cx) else { return Poll::Pending };
                    let json = match outcome.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into())) {
                        Ok(()) => is_answer.then(|| ServerFrame::Answered { id: id.as_deref() }.to_json()),
                        Err(refusal) => Some(ServerFrame::error(id.as_deref(), &refusal).to_json()),
                    };
                    json.iter().for_each(|json| self.write(json));
                }
                PendingAnswer::Publication { id, channel, stored } => {
                    let Poll::Ready(stored) = Pin::new(stored).poll(cx) else { return Poll::Pending };
                    let json = match stored.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into())) {
                        Ok(Stored { position, backpressure }) => {
                            let mut json = String::with_capacity(128);
                            published(&mut json, id.as_deref(), channel.as_str(), &position);
                            due = backpressure.map(DueStep::Wait);
                            json
                        }
                        Err(refusal) => ServerFrame::error(id.as_deref(), &refusal).to_json(),
                    };
                    self.write(&json);
                }
            }
            self.pending.pop_front();
            if let Some(due) = due {
                return Poll::Ready(due);
            }
        }
        Poll::Pending
    }
}
