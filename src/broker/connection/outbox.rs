//! The outbox of a connection: frames that the socket has not accepted yet, bounded in number and bytes.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::socket::Socket;

/// Buffers of one vectored write: more would not make the system call cheaper.
const MAX_WRITE_BUFFERS: usize = 64;

#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<QueuedFrame>,
    /// Bytes of the first frame that the socket has accepted.
    head_written: usize,
    /// Bytes that the socket has not accepted.
    bytes: usize,
    /// The socket accepted bytes since the last [`Outbox::take_progress`].
    progress: bool,
}

struct QueuedFrame {
    frame: Bytes,
    /// The tag of a channel of which only the newest frame needs to be sent.
    latest: Option<u64>,
}

/// The result of queueing a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is the only frame: the connection's task has to start writing.
    First,
    Behind,
    /// It does not fit and was not queued.
    Full,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn frames(&self) -> usize {
        self.queue.len()
    }

    /// Whether the socket accepted bytes since the last call.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Appends a frame. The socket has accepted `written` of its bytes, which is 0 unless the outbox is empty.
    pub fn push(
        &mut self,
        frame: Bytes,
        written: usize,
        latest: Option<u64>,
        max_bytes: usize,
        max_frames: usize,
    ) -> Pushed {
        if latest.is_some() {
            self.drop_older(latest);
        }
        let waiting = frame.len() - written;
        if self.queue.len() >= max_frames || self.bytes.saturating_add(waiting) > max_bytes {
            // A frame that was written in part must be completed.
            if written > 0 {
                self.append(frame, written, latest);
            }
            return Pushed::Full;
        }
        let first = self.queue.is_empty();
        self.append(frame, written, latest);
        if first { Pushed::First } else { Pushed::Behind }
    }

    fn append(&mut self, frame: Bytes, written: usize, latest: Option<u64>) {
        self.bytes += frame.len() - written;
        if self.queue.is_empty() {
            self.head_written = written;
        }
        self.queue.push_back(QueuedFrame { frame, latest });
    }

    /// Removes the waiting frame of the same channel, unless it was written in part.
    fn drop_older(&mut self, latest: Option<u64>) {
        let begun = usize::from(self.head_written > 0);
        let older = self.queue.iter().skip(begun).position(|waiting| waiting.latest == latest);
        if let Some(waiting) = older.and_then(|at| self.queue.remove(at + begun)) {
            self.bytes -= waiting.frame.len();
        }
    }

    /// Removes every frame that was not written in part.
    pub fn drop_whole_frames(&mut self) {
        self.queue.truncate(usize::from(self.head_written > 0));
        self.queue.shrink_to_fit();
        self.bytes = self.queue.front().map_or(0, |head| head.frame.len() - self.head_written);
    }

    /// Removes the oldest frame, for a connection without a socket.
    pub fn pop_frames(&mut self) -> Option<Bytes> {
        let QueuedFrame { frame, .. } = self.queue.pop_front()?;
        self.bytes -= frame.len();
        self.progress = true;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(frame)
    }

    /// The peer accepted data that was never in the outbox.
    pub fn mark_progress(&mut self) {
        self.progress = true;
    }

    /// Writes as much as one system call accepts. Not to be called when empty.
    pub fn write_to(&mut self, socket: &(impl Socket + ?Sized)) -> io::Result<()> {
        let mut slices = [io::IoSlice::new(&[]); MAX_WRITE_BUFFERS];
        let mut count = 0;
        for (slice, waiting) in slices.iter_mut().zip(&self.queue) {
            let start = if count == 0 { self.head_written } else { 0 };
            *slice = io::IoSlice::new(&waiting.frame[start..]);
            count += 1;
        }
        let mut written = socket.try_write_vectored(&slices[..count])?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.progress = true;
        self.bytes -= written;
        while let Some(head) = self.queue.front() {
            let left = head.frame.len() - self.head_written;
            if written < left {
                self.head_written += written;
                return Ok(());
            }
            written -= left;
            self.head_written = 0;
            self.queue.pop_front();
        }
        // Free the queue's own memory too: most connections never need it again.
        self.queue = VecDeque::new();
        Ok(())
    }
}
