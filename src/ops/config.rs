//! What the operator's tools are told: logs, statsd.

/// How the log looks, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Levels, of everything or by module: `info`, `info,lastmile=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    Human,
    Json,
}

/// Where counts of rooms are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsdConfig {
    /// Name or IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// Stands before every name, with a dot between them.
    pub prefix: String,
}
