//! `lastmile password`: hashes a publisher's password.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output;
use crate::auth::publisher::PasswordHash;

/// A password must fit into a request head.
const MAX_PASSWORD_BYTES: u64 = 1024;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile password
  lastmile password < secret.txt > keys/old-publisher.argon2

The command prompts for the password on the terminal, or reads the first line of standard input. It is never an
argument, because other users of this machine can see those. Only the hash (Argon2id) is printed, for the setting
publishers.NAME.basic.password_argon2.")]
pub struct Password {}

impl Password {
    pub fn run(self) -> Result<(), Failure> {
        let is_terminal = io::stdin().is_terminal();
        let password = if is_terminal { prompt()? } else { first_line(io::stdin().lock())? };
        if password.is_empty() || password.chars().any(char::is_control) {
            return Err(Failure::usage("the password must not be empty or hold control characters"));
        }
        let hash = PasswordHash::make(&password).map_err(|error| Failure::failed(error.to_string()))?;
        output::note("for the publisher's entry: basic = { username = \"…\", password_argon2 = \"…\" }");
        output::text(&format!("{hash}\n"))
    }
}

fn prompt() -> Result<Zeroizing<String>, Failure> {
    let read = |text| rpassword::prompt_password(text).map(Zeroizing::new).map_err(failed);
    let password = read("password: ")?;
    if *password != *read("repeat the password: ")? {
        return Err(Failure::usage("the passwords differ"));
    }
    Ok(password)
}

fn first_line(from: impl BufRead) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let read = from.take(MAX_PASSWORD_BYTES + 2).read_line(&mut line).map_err(failed)?;
    let bare = line.trim_end_matches(['\r', '\n']).len();
    if read as u64 > MAX_PASSWORD_BYTES && bare as u64 > MAX_PASSWORD_BYTES {
        return Err(Failure::usage(format!("a password has at most {MAX_PASSWORD_BYTES} bytes")));
    }
    line.truncate(bare);
    Ok(line)
}

fn failed(error: io::Error) -> Failure {
    Failure::failed(format!("cannot read the password: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_first_line_without_end() {
        let read = |text: &str| first_line(text.as_bytes()).map(|line| line.to_string()).ok();
        assert_eq!(read("a b: \r\nsecond").as_deref(), Some("a b: "));
        assert_eq!(read("no end").as_deref(), Some("no end"));
        assert_eq!(read("").as_deref(), Some(""));
        assert_eq!(read(&"x".repeat(1024)).map(|line| line.len()), Some(1024));
        assert_eq!(read(&"x".repeat(1025)), None);
    }
}
