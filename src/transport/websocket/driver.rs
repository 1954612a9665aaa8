//! The task of one WebSocket: reads frames, calls the handler, writes the outbox, performs the closing handshake.
//!
//! A hand-written future, because there is one for every connection: while idle it holds no buffer.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::socket::RawSocket;
use crate::broker::connection::handler::Handler;
use crate::broker::{Connection, Now, Phase, RateLimit};
use crate::protocol::CloseReason;
use crate::protocol::websocket::{Assembler, Message, pong_frame};

/// Unsent bytes above which a peer is not read: the responses to its commands fill its outbox.
const READ_PAUSE_BYTES: usize = 64 * 1024;

/// Reads of one connection before its task yields.
const READS_PER_TURN: usize = 16;

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of one read from a peer that compresses: they may inflate a thousandfold, and all of it is handled before
/// the next read.
const DEFLATED_READ_BYTES: usize = 2048;

/// Pings and pongs of a peer, with a burst for those that waited in the network. Each ping costs an answer.
const CONTROL_FRAMES_PER_SECOND: u32 = 20;
const CONTROL_FRAME_BURST: u32 = 200;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Completes when the connection has ended.
pub struct Driver<H: Handler> {
    connection: Arc<Connection<RawSocket>>,
    assembler: Assembler,
    handler: H,
    control_rate: RateLimit,
    /// Unread bytes behind the request; boxed, because few connections have any.
    early: Option<Box<Bytes>>,
    /// The peer has sent Close.
    peer_closed: bool,
    /// The input is not parsed any more, so the peer's Close may never be seen.
    is_unreadable: bool,
}

impl<H: Handler> Driver<H> {
    /// `early` are bytes that the peer sent behind its request, before the response.
    pub fn new(connection: Arc<Connection<RawSocket>>, assembler: Assembler, handler: H, early: Bytes) -> Self {
        let early = (!early.is_empty()).then(|| Box::new(early));
        let control_rate = RateLimit::new(CONTROL_FRAMES_PER_SECOND, CONTROL_FRAME_BURST);
        Self { connection, assembler, handler, control_rate, early, peer_closed: false, is_unreadable: false }
    }

    fn on_bytes(&mut self, bytes: &mut [u8]) {
        self.connection.mark_alive();
        if self.peer_closed {
            return;
        }
        let Self { connection, assembler, handler, control_rate, peer_closed, .. } = self;
        let is_closing = connection.phase() != Phase::Open;
        let fed = assembler.feed(bytes, handler.bounds(), &mut |message| {
            // After the gateway's Close only the peer's Close matters.
            if *peer_closed || (is_closing && !matches!(message, Message::Close(_))) {
                return Ok(());
            }
            handler.on_frame()?;
            if matches!(message, Message::Ping(_) | Message::Pong) {
                control_rate.try_take(Now::read().monotonic).map_err(|_| CloseReason::RateLimited)?;
            }
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
            // The start of the next frame is unknown.
            self.peer_closed |= is_closing;
            self.is_unreadable = true;
            self.connection.close(reason);
        }
    }

    /// Writes the outbox. Ready when it is empty.
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
        let most = if self.assembler.inflates() { DEFLATED_READ_BYTES } else { READ_BYTES };
        READ_BUFFER.with_borrow_mut(|buffer| {
            let read = match self.early.take() {
                Some(mut early) => {
                    let bytes = early.split_to(most.min(early.len()));
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    self.early = (!early.is_empty()).then_some(early);
                    Ok(bytes.len())
                }
                None => self.connection.socket().try_read(&mut buffer[..most]),
            };
            if let Ok(length @ 1..) = read {
                self.on_bytes(&mut buffer[..length]);
            }
            read
        })
    }

    /// Reads until the socket is empty or the connection's turn is over.
    fn read(&mut self, cx: &mut Context<'_>) -> Progress {
        for _ in 0..READS_PER_TURN {
            if self.connection.phase() == Phase::Open {
                // The flush that empties the outbox wakes this task.
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
        // Other connections take their turn first.
        cx.waker().wake_by_ref();
        Progress::Waiting
    }
}

/// The result of reading.
#[derive(PartialEq, Eq)]
enum Progress {
    /// The task will be woken.
    Waiting,
    /// The socket has ended or failed.
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
                Phase::Closing(_) if this.is_unreadable && flushed.is_ready() => {
                    // The peer sees the end of the stream behind the Close, even while it still sends.
                    this.is_unreadable = false;
                    this.connection.socket().finish();
                }
                _ => {}
            }
            if this.read(cx) == Progress::Ended {
                return Poll::Ready(());
            }
            // The handler may have sent frames or closed the connection.
            let is_over = this.peer_closed || matches!(this.connection.phase(), Phase::Closed(_));
            if !is_over && flushed.is_ready() != this.connection.wants_write() {
                return Poll::Pending;
            }
        }
    }
}

impl<H: Handler> Drop for Driver<H> {
    fn drop(&mut self) {
        // No task writes any more, so further frames are refused.
        self.connection.abandon();
    }
}
