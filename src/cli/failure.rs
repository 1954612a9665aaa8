//! The early end of a command: a message and an exit code.

/// A bad setting or argument (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// A fault of the program itself (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_SOFTWARE: u8 = 70;

pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: EXIT_USAGE }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: EXIT_SOFTWARE }
    }

    /// Standard output is a closed pipe, as in `lastmile subscribe … | head`.
    pub fn closed_pipe() -> Self {
        Self { message: String::new(), code: 0 }
    }
}
