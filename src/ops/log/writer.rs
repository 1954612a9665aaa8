//! Writes the log from a thread of its own, so that a log that cannot be written costs its lines alone.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use std::sync::Arc;

/// Lines that are not written yet. Ten thousand lines find room, which a drain causes in a moment; the next one is lost.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// Memory of a line besides its text.
const LINE_OVERHEAD_BYTES: usize = 64;

/// How often lost lines are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before another attempt on a pipe that another process made non-blocking.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// The queue of lines. Nothing here blocks, except [`LogWriter::flush`] up to its bound.
#[derive(Clone)]
pub struct LogWriter {
    items: Sender<Item>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    dropped_lines: AtomicU64,
}

enum Item {
    Line(Vec<u8>),
    /// Is dropped when all lines before it are written or lost.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// `report` logs that lines were dropped: since the last report, and since the start.
    pub fn start(output: impl Write + Send + 'static, report: fn(u64, u64)) -> io::Result<Self> {
        // Bounded by the bytes that `push` counts.
        let (items, queued) = mpsc::channel();
        let counts = Arc::<Counts>::default();
        let worker = Worker { output, counts: counts.clone(), is_torn: false, works: true, reported: 0, report };
        thread::Builder::new().name("log".to_owned()).spawn(move || worker.run(&queued))?;
        Ok(Self { items, counts })
    }

    /// Queues a line with its end, or drops it.
    pub fn push(&self, line: Vec<u8>) {
        let bytes = line.len() + LINE_OVERHEAD_BYTES;
        if self.counts.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES
            || self.items.send(Item::Line(line)).is_err()
        {
            self.counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all queued lines are written or lost, but no longer than `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let (done, flushed) = mpsc::sync_channel(0);
        if self.items.send(Item::Flush(done)).is_ok() {
            // Nothing is sent: the sender is dropped.
            let _ = flushed.recv_timeout(timeout);
        }
    }

    pub fn dropped_lines(&self) -> u64 {
        self.counts.dropped_lines.load(Ordering::Relaxed)
    }
}

/// Each `write` is one line, as `tracing_subscriber` calls it.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Worker<W> {
    output: W,
    counts: Arc<Counts>,
    /// The last line was written in part.
    is_torn: bool,
    /// The last line was written.
    works: bool,
    /// Dropped lines of all reports.
    reported: u64,
    report: fn(u64, u64),
}

impl<W: Write> Worker<W> {
    fn run(mut self, items: &Receiver<Item>) {
        let mut next_report = Instant::now();
        loop {
            let dropped = self.counts.dropped_lines.load(Ordering::Relaxed);
            let is_report_due = self.works && dropped > self.reported;
            if is_report_due && Instant::now() >= next_report {
                (self.report)(dropped - self.reported, dropped);
                self.reported = dropped;
                next_report = Instant::now() + REPORT_INTERVAL;
                continue;
            }
            let wait = if is_report_due { REPORT_INTERVAL } else { Duration::MAX };
            match items.recv_timeout(wait) {
                Ok(Item::Line(line)) => {
                    self.works = self.write_line(&line).is_ok();
                    if !self.works {
                        self.counts.dropped_lines.fetch_add(1, Ordering::Relaxed);
                    }
                    self.counts.queued_bytes.fetch_sub(line.len() + LINE_OVERHEAD_BYTES, Ordering::Relaxed);
                }
                Ok(Item::Flush(done)) => drop(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            // The rest of the torn line is lost, and this one must not become a part of it.
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::{Condvar, Mutex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// An output whose behaviour changes while it is used.
    #[derive(Clone, Default)]
    struct Output(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        text: Vec<u8>,
        /// Writes wait until this is false.
        is_stuck: bool,
        /// Bytes that are accepted before each write fails.
        room: Option<usize>,
    }

    impl Output {
        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().text.clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (state, changed) = &*self.0;
            let mut state = state.lock();
            changed.wait_while(&mut state, |state| state.is_stuck);
            let length = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
            if length == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            state.text.extend(&bytes[..length]);
            state.room = state.room.map(|room| room - length);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ignore(_: u64, _: u64) {}

    #[test]
    fn lines_are_written_in_order_before_flush_returns() {
        let output = Output::default();
        let writer = LogWriter::start(output.clone(), ignore).unwrap();
        let lines: Vec<_> = (0..1000).map(|n| format!("line {n}\n")).collect();
        lines.iter().for_each(|line| writer.push(line.clone().into()));
        writer.flush(TIMEOUT);
        assert_eq!(output.text(), lines.concat());
        assert_eq!(writer.dropped_lines(), 0);
    }

    #[test]
    fn stuck_output_blocks_neither_push_nor_flush() {
        let output = Output::default();
        let writer = LogWriter::start(output.clone(), ignore).unwrap();
        output.set(|state| state.is_stuck = true);
        let line = vec![b'x'; 1024];
        let pushed = 2 * MAX_QUEUED_BYTES / line.len();
        (0..pushed).for_each(|_| writer.push(line.clone()));
        writer.flush(Duration::from_millis(1));
        let dropped = writer.dropped_lines();
        assert!(dropped > 0 && writer.counts.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
        output.set(|state| state.is_stuck = false);
        writer.flush(TIMEOUT);
        assert_eq!(output.text().len(), (pushed - dropped as usize) * line.len());
        assert_eq!(writer.counts.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn failed_writes_are_counted_and_reported() {
        static REPORTS: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());
        let output = Output::default();
        let writer = LogWriter::start(output.clone(), |lost, all| REPORTS.lock().push((lost, all))).unwrap();
        output.set(|state| state.room = Some("first\nhal".len()));
        for line in ["first\n", "half\n", "lost\n"] {
            writer.push(line.into());
        }
        writer.flush(TIMEOUT);
        assert_eq!((output.text().as_str(), writer.dropped_lines()), ("first\nhal", 2));
        assert!(REPORTS.lock().is_empty());
        output.set(|state| state.room = None);
        writer.push(b"next\n".into());
        writer.flush(TIMEOUT);
        assert_eq!(output.text(), "first\nhal\nnext\n");
        // The report comes before the thread takes the next item.
        writer.flush(TIMEOUT);
        assert_eq!(*REPORTS.lock(), [(2, 2)]);
    }
}
