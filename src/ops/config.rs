//! Configuration of log and statsd.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Levels, global or by module: `info`, `info,lastmile=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` on a terminal, otherwise `Json`.
    Auto,
    Human,
    Json,
}

/// The statsd server, which receives counts of rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsdConfig {
    /// Name or IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// Prefix of every metric name, followed by a dot.
    pub prefix: String,
}
