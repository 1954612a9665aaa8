//! Input of commands: keys, tokens, lines of standard input.

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

/// Largest key or token file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Largest line: the gateway's default for `limits.max_batch_bytes`.
const MAX_LINE_BYTES: u64 = 4 * 1024 * 1024;

/// Lines that are read before they can be sent.
const MAX_QUEUED_LINES: usize = 256;

/// A subscriber's token.
#[derive(Args)]
pub struct TokenArgs {
    /// The token. Prefer the variable or a file: other users of this machine can see arguments
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<String>,
    /// A file with the token, read again at each connection; takes precedence over the token itself
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Returns the token source of the client. A file is read again for each connection.
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

/// Reads the token in a file; `-` is standard input.
pub fn token_file(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") { read_text(io::stdin()) } else { File::open(path).and_then(read_text) };
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// Reads the text of a private key. Its memory is overwritten when the value is dropped.
pub fn private_key_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 != 0) {
        output::note(&format!("warning: other users of this machine can read {0}; try chmod 600 {0}", path.display()));
    }
    read_text(file).map(Zeroizing::new).map_err(failed)
}

/// Reads a publisher's ed25519 key, OpenSSH or PEM.
pub fn publisher_key(path: &Path) -> Result<Key, Failure> {
    let text = private_key_text(path)?;
    Key::from_text(&text).map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.message)))
}

fn read_text(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    match from.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)? {
        read if read as u64 > MAX_FILE_BYTES => Err(io::Error::other("the file is larger than 64 KiB")),
        _ => Ok(text),
    }
}

/// Returns the lines of standard input without their ends; an error is the last item.
///
/// A thread of its own reads them, because a blocking read of a terminal cannot be cancelled.
pub fn lines() -> mpsc::Receiver<Result<String, Failure>> {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_LINES);
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
            // The receiver is dropped when the connection ends.
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = from.take(MAX_LINE_BYTES + 1).read_line(&mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 > MAX_LINE_BYTES {
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
    fn line_ends_are_removed() {
        let mut text = "a\r\n\n b \nlast".as_bytes();
        let mut next = || read_line(&mut text).unwrap();
        assert_eq!(next().as_deref(), Some("a"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some(" b "));
        assert_eq!(next().as_deref(), Some("last"));
        assert_eq!(next(), None);
    }

    #[test]
    fn endless_and_binary_lines_are_refused() {
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(read_line(&mut endless).is_err());
        let mut binary: &[u8] = b"\xff\xfe\n";
        assert!(read_line(&mut binary).is_err());
    }
}
