//! `lastmile publish`: one signed handshake, then messages over one WebSocket.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lastmile_client::{Connection, Error, Gateway};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::runtime::runtime;
use super::signals::Signals;
use super::{input, output, remote};
use crate::protocol::json::push_json_string;

/// Most unanswered messages. Large enough for long round trips, small enough that the responses fit into the gateway's
/// outbox.
const WINDOW: usize = 1000;

/// Longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Without unanswered messages the gateway's pings show that the connection is alive.
const MAX_IDLE_SILENCE: Duration = Duration::from_secs(600);

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile publish prices.btc '{\"usd\": 67000}' --key keys/publisher.key
  lastmile publish prices.btc --text 'closed today' --key ~/.ssh/id_ed25519
  lastmile publish support - --key k.pem --replies < questions.jsonl
  tail -f trades.jsonl | lastmile publish trades - --key k.pem --url https://gateway.internal:8081

Prints one JSON line for each message that the gateway accepted.
Exit code 0: all were accepted. 1: at least one was not; standard error names it and the reason.")]
pub struct Publish {
    /// The channel
    channel: String,
    /// The payload, or `-` for one message per line of standard input
    #[arg(default_value = "-", allow_negative_numbers = true)]
    data: String,
    /// The gateway's publish listener
    #[arg(long, default_value = "http://127.0.0.1:8081", value_parser = remote::parse_url)]
    url: Gateway,
    /// The publisher's private key, OpenSSH or PEM, without a passphrase
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send every payload as a string, even if it is JSON
    #[arg(long)]
    text: bool,
    /// Print and confirm the replies of subscribers as well
    #[arg(long)]
    replies: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
}

impl Publish {
    pub fn run(self) -> Result<(), Failure> {
        let key = input::publisher_key(&self.key)?;
        let gateway = remote::with_authorities(self.url.clone(), self.ca.as_deref())?;
        runtime()?.block_on(async {
            let signals = Signals::new(None)?;
            let connection = Connection::publisher(&gateway, &key).await;
            let connection = connection.map_err(|error| remote::failure(&gateway, &error))?;
            let is_stream = self.data == "-";
            let payloads = if is_stream { input::lines() } else { single(&self.data) };
            let mut stream = Stream::new(connection, self);
            let ended = stream.run(payloads, signals).await;
            stream.finish(ended, is_stream).await
        })
    }
}

/// Builds a `publish` frame; `data` is JSON.
fn frame(id: u64, channel: &str, data: &str) -> String {
    let mut json = format!(r#"{{"type":"publish","id":"{id}","channel":"#);
    push_json_string(&mut json, channel);
    json.push_str(r#","data":"#);
    json.push_str(data);
    json.push('}');
    json
}

/// The gateway's frames to a publisher. Responses follow the order of the publications.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PublisherFrame {
    Published,
    Reply {
        reply: String,
    },
    Error {
        code: String,
        message: String,
    },
    #[serde(other)]
    Other,
}

fn single(data: &str) -> mpsc::Receiver<Result<String, Failure>> {
    let (sender, receiver) = mpsc::channel(1);
    // The queue is new and has space for one.
    let _ = sender.try_send(Ok(data.to_owned()));
    receiver
}

struct Stream {
    connection: Connection,
    args: Publish,
    /// Numbers of the unanswered messages, oldest first.
    unanswered: VecDeque<u64>,
    sent: u64,
    published: u64,
    refused: BTreeMap<String, u64>,
}

/// Why sending ended.
enum Ended {
    /// All messages are answered.
    Done,
    Closed(Error),
    Failed(Failure),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Closed(error)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Stream {
    fn new(connection: Connection, args: Publish) -> Self {
        Self { connection, args, unanswered: VecDeque::new(), sent: 0, published: 0, refused: BTreeMap::new() }
    }

    /// Sends until the input ends or Ctrl-C, then waits for the responses.
    async fn run(&mut self, payloads: mpsc::Receiver<Result<String, Failure>>, signals: Signals) -> Ended {
        match self.send_all(payloads, signals).await {
            Ok(()) => Ended::Done,
            Err(ended) => ended,
        }
    }

    async fn send_all(
        &mut self,
        mut payloads: mpsc::Receiver<Result<String, Failure>>,
        signals: Signals,
    ) -> Result<(), Ended> {
        let mut interrupted = std::pin::pin!(signals.first());
        let mut more = true;
        let mut input_failed = None;
        while more || !self.unanswered.is_empty() {
            let max_silence = if self.unanswered.is_empty() { MAX_IDLE_SILENCE } else { RESPONSE_TIMEOUT };
            tokio::select! {
                payload = payloads.recv(), if more && self.unanswered.len() < WINDOW => match payload {
                    Some(Ok(payload)) => self.send(&payload).await?,
                    Some(Err(failure)) => (more, input_failed) = (false, Some(failure)),
                    None => more = false,
                },
                text = self.connection.next(max_silence) => self.on_response(&text?).await?,
                () = &mut interrupted, if more => more = false,
            }
        }
        input_failed.map_or(Ok(()), |failure| Err(failure.into()))
    }

    async fn send(&mut self, payload: &str) -> Result<(), Error> {
        let Some(data) = to_json(payload, self.args.text) else { return Ok(()) };
        self.sent += 1;
        self.unanswered.push_back(self.sent);
        self.connection.send(frame(self.sent, &self.args.channel, &data)).await
    }

    async fn on_response(&mut self, text: &str) -> Result<(), Ended> {
        match serde_json::from_str(text) {
            Ok(PublisherFrame::Published) => {
                self.unanswered.pop_front();
                self.published += 1;
                if !self.args.quiet {
                    output::json_line(text)?;
                }
                Ok(())
            }
            Ok(PublisherFrame::Reply { reply }) if self.args.replies => {
                output::json_line(text)?;
                let confirmation = serde_json::json!({"type": "received", "reply": reply}).to_string();
                Ok(self.connection.send(confirmation).await?)
            }
            Ok(PublisherFrame::Error { code, message }) => {
                let number = self.unanswered.pop_front().unwrap_or(self.sent);
                let count = self.refused.entry(code.clone()).or_default();
                *count += 1;
                // Only the first refusal of each code is printed; the summary counts the others.
                if *count == 1 {
                    let (code, message) = (code.escape_debug(), message.escape_debug());
                    output::note(&format!("message {number} refused: {code}: {message}"));
                }
                Ok(())
            }
            Ok(PublisherFrame::Reply { .. } | PublisherFrame::Other) | Err(_) => Ok(()),
        }
    }

    async fn finish(self, ended: Ended, is_stream: bool) -> Result<(), Failure> {
        let Self { connection, args, unanswered, sent, published, refused } = self;
        let all = refused.values().sum::<u64>();
        if is_stream && !args.quiet {
            output::note(&format!("{published} published, {all} refused, {} unanswered", unanswered.len()));
        }
        match ended {
            Ended::Done => connection.close().await,
            Ended::Closed(error) => {
                let why = remote::describe(&error);
                return Err(Failure::failed(format!("{why}; {} of {sent} messages unanswered", unanswered.len())));
            }
            Ended::Failed(failure) => {
                connection.close().await;
                return Err(failure);
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        let kinds: Vec<_> = refused.iter().map(|(code, count)| format!("{} ({count})", code.escape_debug())).collect();
        Err(Failure::failed(format!("{all} of {sent} messages refused: {}", kinds.join(", "))))
    }
}

/// Converts a payload to JSON. An empty line is no message, except with `--text`.
fn to_json(payload: &str, is_text: bool) -> Option<String> {
    if !is_text {
        let json = payload.trim_matches([' ', '\t', '\r', '\n']);
        if json.is_empty() {
            return None;
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok() {
            return Some(json.to_owned());
        }
    }
    let mut string = String::with_capacity(payload.len() + 2);
    push_json_string(&mut string, payload);
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_sent_unchanged_and_text_as_string() {
        let check = |payload: &str, is_text: bool, expected: Option<&str>| {
            assert_eq!(to_json(payload, is_text).as_deref(), expected, "{payload:?}");
        };
        check(r#"{"usd": 3001.50}"#, false, Some(r#"{"usd": 3001.50}"#));
        check(" 7 ", false, Some("7"));
        check("hello", false, Some(r#""hello""#));
        check(r#"{"a""#, false, Some(r#""{\"a\"""#));
        check("", false, None);
        check("", true, Some(r#""""#));
        check("7", true, Some(r#""7""#));
    }
}
