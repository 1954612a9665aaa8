//! File descriptors of the process: one for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files, listeners, engine and outgoing connections.
const OWN_DESCRIPTORS: u64 = 32;

/// Raises the limit as far as the system allows. Returns it; `None` means no limit.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // The lower limit stays in force otherwise, and is reported.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current
}

/// Descriptors that are left for connections.
pub fn for_connections() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit.saturating_sub(OWN_DESCRIPTORS))
}
