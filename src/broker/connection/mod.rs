//! One connection: a socket, an outbox for the frames that the socket does not accept yet, and liveness.

pub mod handler;
mod limits;
pub mod liveness;
mod outbox;
mod phase;
pub mod rate;
pub mod registry;
mod socket;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

pub use self::limits::ConnectionLimits;
use self::liveness::{Action, Liveness};
use self::outbox::{Outbox, Pushed};
pub use self::phase::Phase;
pub use self::socket::{BufferedSocket, Socket};
use crate::protocol::{CloseReason, websocket};

/// Limits of a batch: a welcome, a response and some messages.
const BATCH_BYTES: usize = 16 * 1024;
const BATCH_FRAMES: usize = 64;

/// A connection, shared by its own task, the fan-out and the sweep: one allocation, one lock.
pub struct Connection<S: ?Sized = dyn Socket> {
    pub id: u64,
    limits: Arc<ConnectionLimits>,
    /// Input arrived since the last sweep.
    was_heard_from: AtomicBool,
    /// Number of channels it subscribes to.
    subscriptions: AtomicU32,
    state: Mutex<ConnectionState>,
    socket: S,
}

struct ConnectionState {
    outbox: Outbox,
    /// Frames wait for the end of the batch.
    is_batching: bool,
    phase: Phase,
    liveness: Liveness,
    /// The authenticated subject or publisher, for the log.
    subject: Option<Arc<str>>,
    /// The connection's own task, which writes the outbox and ends the connection.
    task: Option<Waker>,
    /// Tasks that wait until the outbox is shorter.
    drain_waiters: Vec<Waker>,
}

/// The result of sending a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Written,
    /// The frame waits in the outbox.
    Queued,
    /// The outbox was full, so this connection is being closed as a slow consumer.
    Overflowed,
    /// The connection is closing or closed; the frame was dropped.
    Gone,
}

impl<S: Socket> Connection<S> {
    pub fn new(id: u64, limits: Arc<ConnectionLimits>, socket: S) -> Self {
        let liveness = Liveness::new(id, &limits);
        let state = ConnectionState {
            outbox: Outbox::default(),
            is_batching: false,
            phase: Phase::Open,
            liveness,
            subject: None,
            task: None,
            drain_waiters: Vec::new(),
        };
        Self {
            id,
            limits,
            was_heard_from: AtomicBool::new(false),
            subscriptions: AtomicU32::new(0),
            state: Mutex::new(state),
            socket,
        }
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: Socket + ?Sized> Connection<S> {
    /// Sends one frame: directly to the socket while the outbox is empty, otherwise into the outbox.
    pub fn send(&self, frame: &Bytes) -> Sent {
        self.lock().send(frame, None)
    }

    /// Sends one text message.
    pub fn send_text(&self, text: &str) -> Sent {
        self.send(&websocket::text_frame(text.as_bytes()))
    }

    /// Small frames wait for [`Connection::end_batch`] from now on, which writes them in one system call.
    pub fn begin_batch(&self) {
        self.state.lock().is_batching = true;
    }

    pub fn end_batch(&self) {
        let mut outgoing = self.lock();
        if outgoing.state.is_batching {
            outgoing.end_batch();
        }
    }

    /// Locks the outgoing side, so that a decision and its frames are one step.
    pub fn lock(&self) -> WriteGuard<'_, S> {
        WriteGuard { connection: self, state: self.state.lock() }
    }

    /// Closes the connection with a Close frame behind the outbox.
    pub fn close(&self, reason: CloseReason) {
        self.lock().close(reason, websocket::close_frame(reason));
    }

    /// The same with code and text of an older protocol. `text` is cut to the size of the frame.
    pub fn close_with(&self, reason: CloseReason, code: u16, text: &str) {
        self.lock().close(reason, websocket::close_frame_with(code, text));
    }

    /// Responds to the peer's Close.
    pub fn close_echo(&self, payload: &[u8]) {
        self.lock().close(CloseReason::Normal, websocket::close_frame_echo(payload));
    }

    /// Drops the outbox: the socket is closed, or a deadline passed. Nothing more is written.
    pub fn abandon(&self) {
        self.lock().abandon();
    }

    /// Ends the connection without a Close frame, as older clients expect.
    pub fn cut(&self, reason: CloseReason) {
        let mut outgoing = self.lock();
        if outgoing.state.phase == Phase::Open {
            outgoing.state.phase = Phase::Closing(reason);
        }
        outgoing.abandon();
    }

    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Records input from the peer.
    pub fn mark_alive(&self) {
        self.was_heard_from.store(true, Ordering::Relaxed);
    }

    /// Bytes in the outbox.
    pub fn waiting_bytes(&self) -> usize {
        self.state.lock().outbox.bytes()
    }

    /// Sets the task to wake when the outbox gets a frame or the phase changes.
    pub fn set_task(&self, waker: &Waker) {
        let mut state = self.state.lock();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            state.task = Some(waker.clone());
        }
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        let task = self.state.lock().task.clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Ready while the outbox has at most `bytes`, and when the connection is closing. Otherwise the task of `cx` is
    /// woken after the next write.
    pub fn poll_drained(&self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open || state.outbox.bytes() <= bytes {
            return Poll::Ready(());
        }
        if !state.drain_waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.drain_waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Writes the outbox until it is empty (`true`) or the socket is full.
    pub fn flush(&self) -> io::Result<bool> {
        self.lock().flush()
    }

    /// Removes the oldest frames from the outbox, for a [`BufferedSocket`].
    pub fn pop_frames(&self) -> Option<Bytes> {
        let mut outgoing = self.lock();
        let frames = outgoing.state.outbox.pop_frames();
        outgoing.wake_drain_waiters();
        frames
    }

    /// The peer accepted data that was never in the outbox, so it is not stalled. Returns the phase.
    pub fn mark_progress(&self) -> Phase {
        let mut state = self.state.lock();
        state.outbox.mark_progress();
        state.phase
    }

    /// Whether the connection's task has bytes to write.
    pub fn wants_write(&self) -> bool {
        !self.state.lock().outbox.is_empty() || self.socket.has_unsent()
    }

    /// Closes with [`CloseReason::Unauthenticated`] unless [`Connection::set_authenticated`] is called within a time.
    pub fn expect_hello(&self, within: Duration) {
        self.state.lock().liveness.expect_hello(within);
    }

    /// Ends the deadline of [`Connection::expect_hello`]: the first message has arrived.
    pub fn end_hello(&self) {
        self.state.lock().liveness.end_hello();
    }

    /// Closes the connection with `reason` at `expires` (seconds since 1970). Replaces an earlier deadline.
    pub fn expire_at(&self, expires: Option<u64>, reason: CloseReason) {
        self.state.lock().liveness.expire_at(expires, reason);
    }

    /// Admits the peer, and ends the deadline of [`Connection::expect_hello`]. Closes the connection at `expires` (seconds since 1970).
    pub fn set_authenticated(&self, expires: Option<u64>) {
        self.state.lock().liveness.set_authenticated(expires);
    }

    /// The authenticated subject or publisher, for the log.
    pub fn set_subject(&self, subject: Arc<str>) {
        self.state.lock().subject = Some(subject);
    }

    pub fn subject(&self) -> Option<Arc<str>> {
        self.state.lock().subject.clone()
    }

    /// To be called once a second. Returns the close reason if this call closes the connection.
    pub fn sweep(&self, now_unix: u64) -> Option<CloseReason> {
        let has_input = self.was_heard_from.swap(false, Ordering::Relaxed);
        let mut outgoing = self.lock();
        let state = &mut *outgoing.state;
        let has_waiting = !state.outbox.is_empty();
        let has_progress = state.outbox.take_progress();
        match state.liveness.sweep(has_input, has_waiting, has_progress, state.phase, now_unix, &self.limits) {
            Action::None => None,
            Action::Ping => {
                outgoing.send(&websocket::ping_frame(), None);
                None
            }
            Action::Close(reason) => {
                let frame = match self.limits.close_silent_without_ping {
                    Some((code, text)) if reason == CloseReason::PingTimeout => websocket::close_frame_with(code, text),
                    _ => websocket::close_frame(reason),
                };
                outgoing.close(reason, frame);
                Some(reason)
            }
            Action::Abandon => {
                outgoing.abandon();
                None
            }
        }
    }

    pub(super) fn subscribed(&self) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of subscriptions left.
    pub(super) fn unsubscribed(&self) -> u32 {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed) - 1
    }
}

/// The locked outgoing side of a connection.
pub struct WriteGuard<'a, S: Socket + ?Sized = dyn Socket> {
    connection: &'a Connection<S>,
    state: MutexGuard<'a, ConnectionState>,
}

impl<S: Socket + ?Sized> WriteGuard<'_, S> {
    /// `latest`: the tag of a channel of which only the newest frame may wait.
    pub fn send(&mut self, frame: &Bytes, latest: Option<u64>) -> Sent {
        if self.state.phase != Phase::Open {
            return Sent::Gone;
        }
        let is_batched = self.is_batched(frame);
        if self.state.is_batching && !is_batched {
            self.end_batch();
            if self.state.phase != Phase::Open {
                return Sent::Gone;
            }
        }
        let mut written = 0;
        if !is_batched && self.state.outbox.is_empty() && !self.connection.socket.has_unsent() {
            written = match self.connection.socket.try_write(frame) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.abandon();
                    return Sent::Gone;
                }
            };
            if written == frame.len() {
                if self.connection.socket.has_unsent() {
                    self.wake();
                }
                return Sent::Written;
            }
        }
        let ConnectionLimits { outbox_bytes, outbox_frames, .. } = *self.connection.limits;
        match self.state.outbox.push(frame.clone(), written, latest, outbox_bytes, outbox_frames) {
            Pushed::First if !is_batched => self.wake(),
            Pushed::First | Pushed::Behind => {}
            Pushed::Full => {
                let reason = CloseReason::SlowConsumer;
                self.close(reason, websocket::close_frame(reason));
                return Sent::Overflowed;
            }
        }
        Sent::Queued
    }

    /// Whether a frame waits for the end of the batch.
    fn is_batched(&self, frame: &Bytes) -> bool {
        let (ConnectionState { is_batching, outbox, .. }, limits) = (&*self.state, &self.connection.limits);
        *is_batching
            && outbox.frames() < limits.outbox_frames.min(BATCH_FRAMES)
            && outbox.bytes() + frame.len() <= limits.outbox_bytes.min(BATCH_BYTES)
    }

    fn end_batch(&mut self) {
        self.state.is_batching = false;
        if self.state.outbox.is_empty() {
            return;
        }
        match self.flush() {
            Ok(true) => {}
            Ok(false) => self.wake(),
            Err(_) => self.abandon(),
        }
    }

    fn close(&mut self, reason: CloseReason, frame: Bytes) {
        if self.state.phase != Phase::Open {
            return;
        }
        if reason == CloseReason::SlowConsumer {
            self.state.outbox.drop_whole_frames();
        }
        // The Close frame always fits.
        self.state.outbox.push(frame, 0, None, usize::MAX, usize::MAX);
        self.state.phase = Phase::Closing(reason);
        if self.flush().is_err() {
            self.abandon();
        }
        self.wake();
    }

    fn abandon(&mut self) {
        let reason = match self.state.phase {
            Phase::Open => CloseReason::Normal,
            Phase::Closing(reason) | Phase::Closed(reason) => reason,
        };
        self.state.phase = Phase::Closed(reason);
        self.state.outbox = Outbox::default();
        self.wake_drain_waiters();
        self.wake();
    }

    fn flush(&mut self) -> io::Result<bool> {
        let flushed = loop {
            if self.state.outbox.is_empty() {
                break self.connection.socket.try_flush();
            }
            match self.state.outbox.write_to(&self.connection.socket) {
                Ok(()) => {}
                Err(error) => break Err(error),
            }
        };
        self.wake_drain_waiters();
        match flushed {
            Ok(()) => Ok(!self.connection.socket.has_unsent()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wake_drain_waiters(&mut self) {
        self.state.drain_waiters.drain(..).for_each(Waker::wake);
    }

    fn wake(&self) {
        if let Some(task) = &self.state.task {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests;
