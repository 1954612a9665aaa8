//! `lastmile password`: makes the hash of a publisher's password.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output;
use crate::auth::publisher::PasswordHash;

/// Longest password, in bytes: a request head has to hold it.
const MAX_BYTES: u64 = 1024;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile password
  lastmile password < secret.txt > keys/old-publisher.argon2

The password is asked for on the terminal, or is the first line of standard input; never an argument, because other
users of this machine can see those. Only the hash (Argon2id) is printed, for publishers.NAME.basic.password_argon2.")]
pub struct Password {}

impl Password {
    pub fn run(self) -> Result<(), Failure> {
        let is_asked = io::stdin().is_terminal();
        let password = if is_asked { ask()? } else { first_line(io::stdin().lock())? };
        if password.is_empty() || password.chars().any(char::is_control) {
            return Err(Failure::usage("the password must not be empty and holds no control characters"));
        }
        let hash = PasswordHash::make(&password).map_err(|error| Failure::failed(error.to_string()))?;
        output::note("for the publisher's entry: basic = { username = \"…\", password_argon2 = \"…\" }");
        output::text(&format!("{hash}\n"))
    }
}

fn ask() -> Result<Zeroizing<String>, Failure> {
    let prompt = |text| rpassword::prompt_password(text).map(Zeroizing::new).map_err(failed);
    let password = prompt("password: ")?;
    if *password != *prompt("once more: ")? {
        return Err(Failure::usage("the two are not the same"));
    }
    Ok(password)
}

fn first_line(from: impl BufRead) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let read = from.take(MAX_BYTES + 2).read_line(&mut line).map_err(failed)?;
    let bare = line.trim_end_matches(['\r', '\n']).len();
    if read as u64 > MAX_BYTES && bare as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("a password has at most {MAX_BYTES} bytes")));
    }
    line.truncate(bare);
    Ok(line)
}

fn failed(error: io::Error) -> Failure {
    Failure::failed(format!("the password cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password_without_its_end() {
        let read = |text: &str| first_line(text.as_bytes()).map(|line| line.to_string()).ok();
        assert_eq!(read("a b: \r\nsecond").as_deref(), Some("a b: "));
        assert_eq!(read("no end").as_deref(), Some("no end"));
        assert_eq!(read("").as_deref(), Some(""));
        assert_eq!(read(&"x".repeat(1024)).map(|line| line.len()), Some(1024));
        assert_eq!(read(&"x".repeat(1025)), None);
    }
}
