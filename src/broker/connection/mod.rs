//! One connection as the broker sees it: a socket that takes bytes, an outbox for what it does not take,
//! and the watch over its silence and its end.

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

/// What a cork holds back: a welcome, an answer and some messages.
const BATCH_BYTES: usize = 16 * 1024;
const BATCH_FRAMES: usize = 64;

/// A connection, shared by its own task, the fan-out and the sweep. One allocation, one lock.
pub struct Connection<S: ?Sized = dyn Socket> {
    pub id: u64,
    limits: Arc<ConnectionLimits>,
    /// Something arrived since the last sweep.
    was_heard_from: AtomicBool,
    /// Channels it listens to.
    subscriptions: AtomicU32,
    state: Mutex<State>,
    socket: S,
}

struct State {
    outbox: Outbox,
    /// What is sent waits for what is sent next.
    is_batching: bool,
    phase: Phase,
    liveness: Liveness,
    /// Whom the peer authenticated as, for the log.
    subject: Option<Arc<str>>,
    /// The connection's own task, which writes what waits and ends the connection.
    task: Option<Waker>,
    /// Those who wait until less waits here.
    drain_waiters: Vec<Waker>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Written,
    /// It waits in the outbox.
    Queued,
    /// The outbox was full, so this connection is being closed as a slow consumer.
    Overflowed,
    /// The connection is on its way out.
    Gone,
}

impl<S: Socket> Connection<S> {
    pub fn new(id: u64, limits: Arc<ConnectionLimits>, socket: S) -> Self {
        let watch = Liveness::new(id, &limits);
        let state = State {
            outbox: Outbox::default(),
            is_batching: false,
            phase: Phase::Open,
            liveness: watch,
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
    /// Sends one frame: straight to the socket if nothing waits, else into the outbox.
    pub fn send(&self, frame: &Bytes) -> Sent {
        self.lock().send(frame, None)
    }

    /// Sends one text message.
    pub fn send_text(&self, text: &str) -> Sent {
        self.send(&websocket::text_frame(text.as_bytes()))
    }

    /// From here on what is sent waits, as far as it is little, for [`Connection::uncork`], which writes it in one go.
    pub fn begin_batch(&self) {
        self.state.lock().is_batching = true;
    }

    pub fn end_batch(&self) {
        let mut outgoing = self.lock();
        if outgoing.state.is_batching {
            outgoing.end_batch();
        }
    }

    /// Locks the outgoing side, so that several frames and a decision about them are one step.
    pub fn lock(&self) -> WriteGuard<'_, S> {
        WriteGuard { connection: self, state: self.state.lock() }
    }

    /// Ends the connection with a Close frame after what already waits.
    pub fn close(&self, reason: CloseReason) {
        self.lock().close(reason, websocket::close_frame(reason));
    }

    /// The same in the words of an older dialect; as much of `text` as fits into the frame.
    pub fn close_with(&self, reason: CloseReason, code: u16, text: &str) {
        self.lock().close(reason, websocket::close_frame_with(code, text));
    }

    /// Answers the peer's Close.
    pub fn close_echo(&self, payload: &[u8]) {
        self.lock().close(CloseReason::Normal, websocket::close_frame_echo(payload));
    }

    /// The socket is gone, or its time is up: nothing more is written.
    pub fn abandon(&self) {
        self.lock().abandon();
    }

    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Something arrived from the peer.
    pub fn mark_alive(&self) {
        self.was_heard_from.store(true, Ordering::Relaxed);
    }

    /// Bytes that wait for the socket.
    pub fn waiting_bytes(&self) -> usize {
        self.state.lock().outbox.bytes()
    }

    /// Remembers the task that is to be woken when something waits or the phase changes.
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

    /// Ready while at most `bytes` wait for the socket, and when the connection is on its way out. Otherwise the
    /// task of `cx` is woken when something of it was written.
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

    /// Writes what waits until it is gone (`true`) or the socket is full.
    pub fn flush(&self) -> io::Result<bool> {
        self.lock().flush()
    }

    /// Takes the oldest frames that wait, for a socket that takes none itself: see [`BufferedSocket`].
    pub fn pop_frames(&self) -> Option<Bytes> {
        let mut outgoing = self.lock();
        let taken = outgoing.state.outbox.pop_frames();
        outgoing.wake_drain_waiters();
        taken
    }

    /// The peer took something that never waited here, so it is not stalled.
    pub fn mark_progress(&self) {
        self.state.lock().outbox.mark_progress();
    }

    /// Whether the connection's task has something to write.
    pub fn wants_write(&self) -> bool {
        !self.state.lock().outbox.is_empty() || self.socket.has_unsent()
    }

    /// Ends the connection with [`CloseReason::Unauthenticated`] unless [`Connection::admit`] comes in time.
    pub fn expect_hello(&self, within: Duration) {
        self.state.lock().liveness.expect_hello(within);
    }

    /// The peer is known; its right ends at `expires` (seconds since 1970), if it does.
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

    /// To be called once a second. Returns why the connection is being ended, if it is since this call.
    pub fn sweep(&self, now_unix: u64) -> Option<CloseReason> {
        let heard = self.was_heard_from.swap(false, Ordering::Relaxed);
        let mut outgoing = self.lock();
        let state = &mut *outgoing.state;
        let waiting = !state.outbox.is_empty();
        let moved = state.outbox.take_progress();
        match state.liveness.sweep(heard, waiting, moved, state.phase, now_unix, &self.limits) {
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

    /// Returns how many subscriptions are left.
    pub(super) fn unsubscribed(&self) -> u32 {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed) - 1
    }
}

/// The locked outgoing side of a connection.
pub struct WriteGuard<'a, S: Socket + ?Sized = dyn Socket> {
    connection: &'a Connection<S>,
    state: MutexGuard<'a, State>,
}

impl<S: Socket + ?Sized> WriteGuard<'_, S> {
    /// `latest` names a channel of which only the newest frame may wait.
    pub fn send(&mut self, frame: &Bytes, latest: Option<u64>) -> Sent {
        if self.state.phase != Phase::Open {
            return Sent::Gone;
        }
        let is_held = self.holds(frame);
        if self.state.is_batching && !is_held {
            self.end_batch();
            if self.state.phase != Phase::Open {
                return Sent::Gone;
            }
        }
        let mut written = 0;
        if !is_held && self.state.outbox.is_empty() && !self.connection.socket.has_unsent() {
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
            Pushed::First if !is_held => self.wake(),
            Pushed::First | Pushed::Behind => {}
            Pushed::Full => {
                let reason = CloseReason::SlowConsumer;
                self.close(reason, websocket::close_frame(reason));
                return Sent::Overflowed;
            }
        }
        Sent::Queued
    }

    /// Whether a frame waits for the cork to be drawn.
    fn holds(&self, frame: &Bytes) -> bool {
        let (State { is_batching: is_corked, outbox, .. }, limits) = (&*self.state, &self.connection.limits);
        *is_corked
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
        // The last frame may always wait.
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
