//! The task of one WebSocket: reads frames, hands messages to its handler, writes what waits, ends in order.
//!
//! It is a hand-written future because there is one for every connection: while idle it holds no buffer.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::socket::RawSocket;
use crate::broker::connection::handler::Handler;
use crate::broker::{Connection, Phase};
use crate::protocol::websocket::{Assembler, Message, pong_frame};

/// A peer whose socket is this far behind is not read from: its own commands fill its outbox.
const READ_PAUSE_BYTES: usize = 64 * 1024;

/// Reads of one connection before others have their turn.
const READS_PER_TURN: usize = 16;

/// One read.
const SCRATCH_BYTES: usize = 64 * 1024;

/// One read of a peer that compresses: what it becomes may be a thousand times as much, and is dealt with before the
/// next read.
const DEFLATED_BYTES: usize = 2048;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

pub struct Driver<H: Handler> {
    connection: Arc<Connection<RawSocket>>,
    assembler: Assembler,
    handler: H,
    /// What the peer sent behind its request, not looked at yet; hardly any has something.
    early: Option<Box<Bytes>>,
    /// The peer said Close.
    peer_closed: bool,
    /// The gateway gave up on what the peer says: its answer may never be found in what still comes.
    gave_up: bool,
}

impl<H: Handler> Driver<H> {
    /// `early` are bytes that the peer sent behind its request.
    pub fn new(connection: Arc<Connection<RawSocket>>, assembler: Assembler, handler: H, early: Bytes) -> Self {
        let early = (!early.is_empty()).then(|| Box::new(early));
        Self { connection, assembler, handler, early, peer_closed: false, gave_up: false }
    }

    fn on_bytes(&mut self, bytes: &mut [u8]) {
        self.connection.mark_alive();
        if self.peer_closed {
            return;
        }
        let Self { connection, assembler, handler, peer_closed, .. } = self;
        let is_closing = connection.phase() != Phase::Open;
        let fed = assembler.feed(bytes, handler.bounds(), &mut |message| {
            // After the gateway's Close only the peer's Close matters.
            if *peer_closed || (is_closing && !matches!(message, Message::Close(_))) {
                return Ok(());
            }
            handler.on_frame()?;
            match message {
                Message::Text(text) => handler.on_text(text),
                Message::Binary(bytes) => handler.on_binary(bytes),
                Message::Ping(payload) => {
                    connection.send(&pong_frame(payload));
                    Ok(())
                }
                Message::Pong => Ok(()),
                Message::Close(payload) => {
                    *peer_closed = true;
                    handler.on_close(payload);
                    connection.close_echo(payload);
                    Ok(())
                }
            }
        });
        handler.on_read_end();
        if let Err(reason) = fed {
            // What follows cannot be told apart from frames any more.
            self.peer_closed |= is_closing;
            self.gave_up = true;
            self.connection.close(reason);
        }
    }

    /// Writes what waits. Ready when nothing does.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.connection.wants_write() {
            match self.connection.socket().poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if self.connection.flush().is_ok() => {}
                Poll::Ready(_) => self.connection.abandon(),
            }
        }
        Poll::Ready(())
    }

    fn read_once(&mut self) -> io::Result<usize> {
        let most = if self.assembler.inflates() { DEFLATED_BYTES } else { SCRATCH_BYTES };
        SCRATCH.with_borrow_mut(|scratch| {
            let read = match self.early.take() {
                Some(mut early) => {
                    let bytes = early.split_to(most.min(early.len()));
                    scratch[..bytes.len()].copy_from_slice(&bytes);
                    self.early = (!early.is_empty()).then_some(early);
                    Ok(bytes.len())
                }
                None => self.connection.socket().try_read(&mut scratch[..most]),
            };
            if let Ok(length @ 1..) = read {
                self.on_bytes(&mut scratch[..length]);
            }
            read
        })
    }

    /// Reads what is there, for as long as it is this connection's turn.
    fn read(&mut self, cx: &mut Context<'_>) -> Progress {
        for _ in 0..READS_PER_TURN {
            if self.connection.phase() == Phase::Open {
                // The flush that makes room wakes this task.
                if self.connection.waiting_bytes() > READ_PAUSE_BYTES || self.handler.poll_ready(cx).is_pending() {
                    return Progress::Waiting;
                }
            }
            let read = self.read_once();
            match read {
                Ok(0) => return Progress::Ended,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.connection.socket().poll_read_ready(cx) {
                        Poll::Pending => return Progress::Waiting,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Progress::Ended,
                    }
                }
                Err(_) => return Progress::Ended,
            }
            if self.peer_closed {
                return Progress::Waiting;
            }
        }
        // Others have their turn first.
        cx.waker().wake_by_ref();
        Progress::Waiting
    }
}

/// How far reading came.
#[derive(PartialEq, Eq)]
enum Progress {
    /// Somebody will wake the task.
    Waiting,
    /// The peer is gone.
    Ended,
}

impl<H: Handler> Future for Driver<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection.set_task(cx.waker());
        if this.connection.phase() == Phase::Open
            && let Err(reason) = this.handler.on_wake()
        {
            this.connection.close(reason);
        }
        loop {
            let flushed = this.poll_flush(cx);
            let phase = this.connection.phase();
            if phase != Phase::Open {
                this.handler.on_end();
            }
            match phase {
                Phase::Closed(_) => return Poll::Ready(()),
                Phase::Closing(_) if this.peer_closed => {
                    if flushed.is_ready() {
                        this.connection.socket().finish();
                    }
                    return flushed;
                }
                Phase::Closing(_) if this.gave_up && flushed.is_ready() => {
                    // The peer sees the end behind the Close, and need not be understood to get there.
                    this.gave_up = false;
                    this.connection.socket().finish();
                }
                _ => {}
            }
            if this.read(cx) == Progress::Ended {
                return Poll::Ready(());
            }
            // What was read may have been answered, or have ended the connection.
            let is_over = this.peer_closed || matches!(this.connection.phase(), Phase::Closed(_));
            if !is_over && flushed.is_ready() != this.connection.wants_write() {
                return Poll::Pending;
            }
        }
    }
}

impl<H: Handler> Drop for Driver<H> {
    fn drop(&mut self) {
        // Nobody will write any more; frames that still come are refused.
        self.connection.abandon();
    }
}
