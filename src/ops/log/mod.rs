//! The log on standard error: text on a terminal, otherwise one JSON object per line.

pub(crate) mod fold;
mod writer;

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

pub(crate) use self::fold::folded;
use self::writer::LogWriter;
use super::config::{LogConfig, LogFormat};

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The writer of this process.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Starts logging for the process. A second call has no effect.
pub fn start(config: &LogConfig) -> io::Result<()> {
    let LogConfig { format, filter } = config;
    let is_human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let writer = writer()?.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(Rfc3339)
        // Reports of the library would go to standard error, where they block or panic.
        .log_internal_errors(false)
        .with_writer(move || writer.clone());
    let _ = if is_human {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Prints the last message of a command that logs, also if logging did not start. Returns when all lines are written,
/// after a second at the latest.
pub fn finish(message: Option<String>) {
    let Ok(writer) = writer() else { return };
    fold::report_all();
    if let Some(message) = message {
        writer.push(message.into_bytes());
    }
    writer.flush(FLUSH_TIMEOUT);
}

/// Lines of the log that were lost since the start of the process.
pub fn dropped_lines() -> u64 {
    WRITER.get().map_or(0, LogWriter::dropped_lines)
}

fn writer() -> io::Result<&'static LogWriter> {
    if WRITER.get().is_none() {
        let started = LogWriter::start(io::stderr(), |lines, since_start| {
            tracing::warn!(lines, since_start, "log lines dropped");
        })?;
        // If another thread was first, this one ends with its queue.
        let _ = WRITER.set(started);
    }
    WRITER.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The default hook would write to standard error itself, which blocks while the log is not read.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let at = panic.location().map(tracing::field::display);
    tracing::error!(at, cause = panic.payload_as_str(), "panicked");
}

/// UTC with milliseconds.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.3}", jiff::Timestamp::now())
    }
}
