//! `lastmile pair`: connects two terminals through a room; what is typed here is printed there.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{HeaderName, HeaderValue, header};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::gateway_url::GatewayUrl;
use super::input::TokenArgs;
use super::signals::Signals;
use super::socket::{Client, Closed, Socket};
use super::{Failure, input, output, runtime};

const SUBPROTOCOL: &str = "lastmile.pair.v1";

/// The gateway pings more often.
const SILENCE: Duration = Duration::from_secs(90);

/// Between attempts to get a lost seat back, and how many there are.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 20;

/// Characters of a room's id: 16 bytes in base64url.
const ROOM_CHARS: usize = 22;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile pair                      opens a room and prints the code to read out
  lastmile pair apple-river-stone    joins it, with the code that was read out
  lastmile pair ROOM --secret-file secret.txt --url https://gateway.example

Lines of standard input go to the other side, its lines are printed. A lost connection is opened again. How many
lines a room carries is the gateway's decision (`rooms.max_exchanges`).
Exit code 0: one side left. 1: the gateway ended the room, or there is none.")]
pub struct Pair {
    /// A code that was read out, or a room; without it a room is opened
    room: Option<String>,
    /// A file with the room's join secret; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "room")]
    secret_file: Option<PathBuf>,
    /// The gateway's listener for pairs
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = GatewayUrl::parse)]
    url: GatewayUrl,
    /// Ask for a code of six digits in place of three words
    #[arg(long, conflicts_with = "room")]
    digits: bool,
    #[command(flatten)]
    token: TokenArgs,
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Pair {
    pub fn run(self) -> Result<(), Failure> {
        let Self { room, secret_file, url, digits, token, ca } = self;
        let secret = secret_file.as_deref().map(input::token_file).transpose()?;
        let (path, first) = match (room, secret) {
            (None, _) => {
                let form = if digits { "digits" } else { "words" };
                ("/v1/rooms".to_owned(), json!({"type": "open", "code": form}))
            }
            (Some(room), Some(secret)) => (format!("/v1/rooms/{room}"), json!({"type": "join", "secret": secret})),
            (Some(room), None) if room.len() == ROOM_CHARS && !room.contains(['-', ' ']) => {
                return Err(Failure::usage("a room needs --secret-file; a code needs nothing"));
            }
            (Some(code), None) => ("/v1/rooms".to_owned(), json!({"type": "join", "code": code})),
        };
        let client = Client::new(url.clone(), ca.as_deref())?.speaking(SUBPROTOCOL);
        let headers = token.read()?.map(bearer).transpose()?;
        let mut conversation = Conversation { client, url, path, headers, seat: None, lines: None };
        runtime()?.block_on(async {
            let signals = Signals::new()?;
            tokio::select! {
                ended = conversation.run(first.to_string()) => ended,
                () = signals.first() => Ok(()),
            }
        })
    }
}

fn bearer(token: String) -> Result<(HeaderName, HeaderValue), Failure> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Failure::usage("the token cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok((header::AUTHORIZATION, value))
}

struct Conversation {
    client: Client,
    url: GatewayUrl,
    path: String,
    headers: Option<(HeaderName, HeaderValue)>,
    seat: Option<Seat>,
    /// Standard input, read only while somebody is there to hear it.
    lines: Option<mpsc::Receiver<Result<String, Failure>>>,
}

/// What gives a lost seat back.
struct Seat {
    resume: String,
    /// The newest message.
    seen: u64,
}

/// Why one connection is over.
enum Over {
    Closed(Closed),
    /// One side left.
    Left,
    Failed(Failure),
}

impl From<Closed> for Over {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A frame of the gateway, as far as it matters here.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    room: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
    #[serde(default)]
    code_secs: Option<u64>,
    #[serde(borrow, default)]
    resume: Option<Cow<'a, str>>,
    #[serde(default)]
    recovered: Option<bool>,
    #[serde(borrow, default)]
    peers: Vec<&'a RawValue>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
}

impl Conversation {
    async fn run(&mut self, first: String) -> Result<(), Failure> {
        let mut first = first;
        let mut retries = 0;
        loop {
            let why = match self.connect().await {
                Ok(mut socket) => match self.converse(&mut socket, first).await {
                    Ok(never) => match never {},
                    Err(Over::Left) => {
                        socket.close().await;
                        return Ok(());
                    }
                    Err(Over::Failed(failure)) => return Err(failure),
                    Err(Over::Closed(closed)) if closed.is_final() => return Err(self.failed(closed)),
                    Err(Over::Closed(closed)) => {
                        retries = 0;
                        closed.to_string()
                    }
                },
                Err(error) if self.seat.is_none() || error.is_final() => return Err(self.failed(error)),
                Err(error) => error.to_string(),
            };
            let Some(seat) = &self.seat else { return Err(self.failed(why)) };
            if retries >= RETRIES {
                return Err(self.failed(why));
            }
            retries += 1;
            output::note(&format!("{why}; connecting again"));
            tokio::time::sleep(RETRY).await;
            first = json!({"type": "resume", "resume": seat.resume, "seen": seat.seen}).to_string();
        }
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::failed(format!("{}: {why}", self.url))
    }

    async fn connect(&self) -> Result<Socket, super::socket::ConnectError> {
        let uri = self.client.uri(&self.path)?;
        self.client.connect(uri, self.headers.clone()).await
    }

    async fn converse(&mut self, socket: &mut Socket, first: String) -> Result<std::convert::Infallible, Over> {
        socket.send(first).await?;
        let mut is_heard = false;
        loop {
            // A read that is given up for a line loses nothing: it takes whole frames only.
            tokio::select! {
                text = socket.next(SILENCE) => is_heard = self.on_frame(&text?, is_heard)?,
                line = next_line(&mut self.lines), if is_heard => {
                    let Some(line) = line else {
                        socket.send(json!({"type": "leave"}).to_string()).await?;
                        return Err(Over::Left);
                    };
                    socket.send(json!({"type": "message", "data": line?}).to_string()).await?;
                }
            }
        }
    }

    /// Returns whether somebody is on the other side.
    fn on_frame(&mut self, text: &str, is_heard: bool) -> Result<bool, Over> {
        let frame: Frame<'_> = serde_json::from_str(text)
            .map_err(|error| Failure::failed(format!("the gateway speaks another protocol: {error}")))?;
        match frame.kind.as_ref() {
            "opened" => {
                let code = frame.code.as_deref().unwrap_or_default().escape_debug();
                let secs = frame.code_secs.unwrap_or_default();
                output::note(&format!("the code is {code}; within {secs} s, on the other side: lastmile pair {code}"));
            }
            "joined" => {
                if let (Some(room), Some(resume)) = (frame.room, frame.resume) {
                    self.path = format!("/v1/rooms/{room}");
                    let seen = self.seat.as_ref().map_or(0, |seat| seat.seen);
                    self.seat = Some(Seat { resume: resume.into_owned(), seen });
                }
                if frame.recovered == Some(false) {
                    output::note("lines may be missing here");
                }
                if !frame.peers.is_empty() {
                    output::note("connected");
                }
                return Ok(!frame.peers.is_empty());
            }
            "peer_joined" => {
                output::note("connected");
                return Ok(true);
            }
            "peer_left" if frame.reason.as_deref() == Some("away") => {
                output::note("the other side lost its connection");
            }
            "peer_left" => return Err(Over::Left),
            "message" => {
                if let (Some(seat), Some(seq)) = (&mut self.seat, frame.seq) {
                    seat.seen = seq;
                }
                if let Some(data) = frame.data {
                    output::text(&format!("{}\n", line_of(data.get())))?;
                }
            }
            "error" => {
                let message = frame.message.as_deref().unwrap_or("refused").escape_debug();
                output::note(&message.to_string());
            }
            _ => {}
        }
        Ok(is_heard)
    }
}

async fn next_line(lines: &mut Option<mpsc::Receiver<Result<String, Failure>>>) -> Option<Result<String, Failure>> {
    lines.get_or_insert_with(input::lines).recv().await
}

/// What a terminal shows of a peer's data: a text without what terminals obey, or JSON.
fn line_of(data: &str) -> String {
    let text = serde_json::from_str::<String>(data).unwrap_or_else(|_| data.to_owned());
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_make_the_terminal_obey() {
        assert_eq!(line_of(r#""hello \u001b[31m\u009b\n é""#), "hello \u{fffd}[31m\u{fffd}\u{fffd} é");
        assert_eq!(line_of(r#"{"a":1}"#), r#"{"a":1}"#);
    }
}
