//! What commands read: keys, tokens, lines of standard input.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use lastmile_client::{Error, Key, TokenSource};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output;

/// The variable with a subscriber's token.
pub const TOKEN_VARIABLE: &str = "LASTMILE_TOKEN";

/// Largest key or token file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Largest line, in bytes: what the gateway takes at most, if nobody changed that.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// Lines that are read ahead.
const LINES_AHEAD: usize = 256;

/// A subscriber's token.
#[derive(Args)]
pub struct TokenArgs {
    /// The token; other users of this machine can see arguments, so better set the variable or give a file
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<String>,
    /// A file with the token, read again at each connection; goes before the token itself
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Where the client gets the token. A file is read again for each connection.
    pub fn source(self) -> Result<TokenSource, Failure> {
        let Self { token, token_file: file } = self;
        let Some(file) = file else { return Ok(fixed(token.unwrap_or_default())) };
        // An unreadable file ends the command before it connects.
        let token = token_file(&file)?;
        if file == Path::new("-") {
            return Ok(fixed(token));
        }
        Ok(TokenSource::function(move || {
            let token = token_file(&file).map_err(|failure| Error::new("token", failure.message));
            std::future::ready(token)
        }))
    }
}

fn fixed(token: String) -> TokenSource {
    match token.trim() {
        "" => TokenSource::anonymous(),
        token => TokenSource::fixed(token),
    }
}

/// The token in a file; `-` is standard input.
pub fn token_file(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") { read_text(io::stdin()) } else { File::open(path).and_then(read_text) };
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// The text of a private key, which leaves memory with the value.
pub fn private_key_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 != 0) {
        output::note(&format!("warning: other users of this machine can use {0}; try chmod 600 {0}", path.display()));
    }
    read_text(file).map(Zeroizing::new).map_err(failed)
}

/// A publisher's ed25519 key, OpenSSH or PEM.
pub fn publisher_key(path: &Path) -> Result<Key, Failure> {
    let text = private_key_text(path)?;
    Key::from_text(&text).map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.message)))
}

fn read_text(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    match from.take(MAX_FILE + 1).read_to_string(&mut text)? {
        read if read as u64 > MAX_FILE => Err(io::Error::other("the file is larger than 64 KiB")),
        _ => Ok(text),
    }
}

/// The lines of standard input without their ends, or why there are no more.
///
/// Read on a thread of their own, because a terminal cannot be read in a way that can be given up.
pub fn lines() -> mpsc::Receiver<Result<String, Failure>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut number = 0;
        let mut stdin = io::stdin().lock();
        loop {
            number += 1;
            let line = match read_line(&mut stdin) {
                Ok(None) => return,
                Ok(Some(line)) => Ok(line),
                Err(error) => Err(Failure::failed(format!("line {number} of standard input: {error}"))),
            };
            let is_last = line.is_err();
            // Nobody wants it if the connection is gone.
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = from.take(MAX_LINE + 1).read_line(&mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 > MAX_LINE {
        return Err(io::Error::other("longer than 4 MiB"));
    }
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut text = "a\r\n\n b \nlast".as_bytes();
        let mut next = || read_line(&mut text).unwrap();
        assert_eq!(next().as_deref(), Some("a"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some(" b "));
        assert_eq!(next().as_deref(), Some("last"));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(read_line(&mut endless).is_err());
        let mut binary: &[u8] = b"\xff\xfe\n";
        assert!(read_line(&mut binary).is_err());
    }
}
