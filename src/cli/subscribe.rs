//! `lastmile subscribe`: prints publications, and comes back after a lost connection where it was.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::gateway_url::GatewayUrl;
use super::input::TokenArgs;
use super::signals::Signals;
use super::socket::{Client, Closed, ConnectError, Socket};
use super::{Failure, output, runtime};

/// The wait before the first new attempt; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Until the gateway says how often it pings.
const WELCOME: Duration = Duration::from_secs(15);

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile subscribe prices.btc
  lastmile subscribe prices.btc prices.eth --backlog 10 --url https://gateway.example
  lastmile subscribe alerts.fire --token-file token.txt
  LASTMILE_TOKEN=… lastmile subscribe alerts.fire | jq .data

Prints one JSON line for each publication. A lost connection is opened again and goes on behind the last one.
Exit code 0: after Ctrl-C or --count. 1: the gateway says that there is nothing to come back for, or the first
connection cannot be made.")]
pub struct Subscribe {
    /// The channels
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// The gateway's listener for subscribers
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = GatewayUrl::parse)]
    url: GatewayUrl,
    #[command(flatten)]
    token: TokenArgs,
    /// Begin with as many publications of each channel's past, if they are kept
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
    /// End after as many publications
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Subscribe {
    pub fn run(self) -> Result<(), Failure> {
        let Self { channels, url, token, backlog, count, ca } = self;
        let client = Client::new(url.clone(), ca.as_deref())?;
        let mut subscriber = Subscriber::new(client, channels, backlog, count);
        runtime()?.block_on(async {
            let signals = Signals::new()?;
            tokio::select! {
                ended = subscriber.run(|| token.read()) => {
                    ended.map_err(|failure| match failure.message.is_empty() {
                        true => failure,
                        false => Failure { message: format!("{url}: {}", failure.message), ..failure },
                    })
                }
                () = signals.first() => Ok(()),
            }
        })
    }
}

/// Follows channels over as many connections as it takes.
pub struct Subscriber {
    client: Client,
    feeds: Vec<Feed>,
    backlog: Option<u64>,
    /// Publications still to print; `None` for all.
    left: Option<u64>,
    wait: Duration,
}

struct Feed {
    channel: String,
    /// Epoch and offset of the last publication that was printed.
    position: Option<(String, u64)>,
    /// The gateway said that no more will come.
    ended: bool,
}

/// Why one connection was given up.
enum Lost {
    Closed(Closed),
    /// Refused for now.
    Temporarily(String),
    Failed(Failure),
    /// As many as wanted were printed.
    Enough,
}

impl From<Closed> for Lost {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

impl From<Failure> for Lost {
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
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    epoch: Option<Cow<'a, str>>,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    recovered: Option<bool>,
    #[serde(default)]
    ping_secs: Option<u64>,
    /// A word in an `error`, a number in an `unsubscribed`.
    #[serde(default)]
    code: Option<serde_json::Value>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(default)]
    temporary: bool,
}

impl Subscriber {
    pub fn new(client: Client, channels: Vec<String>, backlog: Option<u64>, count: Option<u64>) -> Self {
        let mut feeds: Vec<Feed> = Vec::with_capacity(channels.len());
        for channel in channels {
            if !feeds.iter().any(|feed| feed.channel == channel) {
                feeds.push(Feed { channel, position: None, ended: false });
            }
        }
        Self { client, feeds, backlog, left: count, wait: FIRST_WAIT }
    }

    /// Prints until there is no reason to go on. `token` is asked before each connection.
    pub async fn run(&mut self, token: impl Fn() -> Result<Option<String>, Failure>) -> Result<(), Failure> {
        if self.left == Some(0) {
            return Ok(());
        }
        let mut is_first = true;
        loop {
            let token = token()?;
            let why = match self.connect().await {
                Ok(mut socket) => match self.follow(&mut socket, token.as_deref()).await {
                    Lost::Enough => {
                        socket.close().await;
                        return Ok(());
                    }
                    Lost::Failed(failure) => return Err(failure),
                    Lost::Closed(closed) if closed.is_final() => return Err(Failure::failed(closed.to_string())),
                    Lost::Closed(closed) => closed.to_string(),
                    Lost::Temporarily(why) => why,
                },
                Err(error) if is_first || error.is_final() => return Err(Failure::failed(error.to_string())),
                Err(error) => error.to_string(),
            };
            is_first = false;
            let wait = jittered(self.wait);
            output::note(&format!("{why}; connecting again in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn connect(&self) -> Result<Socket, ConnectError> {
        let uri = self.client.uri("/v1/subscribe")?;
        self.client.connect(uri, []).await
    }

    async fn follow(&mut self, socket: &mut Socket, token: Option<&str>) -> Lost {
        match self.converse(socket, token).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn converse(&mut self, socket: &mut Socket, token: Option<&str>) -> Result<std::convert::Infallible, Lost> {
        socket.feed(hello(token)).await?;
        for (index, feed) in self.feeds.iter().enumerate().filter(|(_, feed)| !feed.ended) {
            socket.feed(feed.subscribe(index, self.backlog)).await?;
        }
        socket.flush().await?;
        let mut silence = WELCOME;
        loop {
            let text = socket.next(silence).await?;
            let frame: Frame<'_> = serde_json::from_str(&text)
                .map_err(|error| Failure::failed(format!("the gateway speaks another protocol: {error}")))?;
            match frame.kind.as_ref() {
                "welcome" => {
                    silence =
                        frame.ping_secs.map_or(silence, |secs| Duration::from_secs(secs.saturating_mul(2)) + WELCOME);
                }
                "message" => self.on_message(&text, &frame)?,
                "subscribed" => self.on_subscribed(&frame),
                "unsubscribed" => self.on_unsubscribed(&frame)?,
                "error" => return Err(self.refused(&frame)),
                _ => {}
            }
        }
    }

    fn on_message(&mut self, text: &str, frame: &Frame<'_>) -> Result<(), Lost> {
        output::json_line(text)?;
        if let (Some(feed), Some(epoch), Some(offset)) = (feed(&mut self.feeds, frame), &frame.epoch, frame.offset) {
            feed.position = Some((epoch.to_string(), offset));
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                return Err(Lost::Enough);
            }
        }
        Ok(())
    }

    fn on_subscribed(&mut self, frame: &Frame<'_>) {
        // Only now the gateway serves this client, so the next loss is a new one.
        self.wait = FIRST_WAIT;
        let wants_past = self.backlog.is_some();
        let (Some(feed), Some(epoch), Some(offset)) = (feed(&mut self.feeds, frame), &frame.epoch, frame.offset) else {
            return;
        };
        match &feed.position {
            Some(_) if frame.recovered == Some(false) => {
                output::note(&format!("{}: publications may be missing here", feed.channel.escape_debug()));
            }
            Some(_) => {}
            // The past that was asked for follows, and each of its publications is a position.
            None if wants_past => {}
            None => feed.position = Some((epoch.to_string(), offset)),
        }
    }

    fn on_unsubscribed(&mut self, frame: &Frame<'_>) -> Result<(), Lost> {
        let reason = frame.reason.as_deref().unwrap_or("ended").escape_debug().to_string();
        let code = frame.code.as_ref().and_then(serde_json::Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let closed = Closed { code, reason };
        let Some(feed) = feed(&mut self.feeds, frame) else { return Ok(()) };
        if !closed.is_final() {
            return Err(closed.into());
        }
        feed.ended = true;
        let message = format!("{}: {closed}", feed.channel.escape_debug());
        if self.feeds.iter().all(|feed| feed.ended) {
            return Err(Failure::failed(message).into());
        }
        output::note(&message);
        Ok(())
    }

    fn refused(&self, frame: &Frame<'_>) -> Lost {
        let index = frame.id.as_ref().and_then(|id| id.parse::<usize>().ok());
        let channel = index.and_then(|index| self.feeds.get(index)).map_or("", |feed| &feed.channel);
        let code = frame.code.as_ref().and_then(serde_json::Value::as_str).unwrap_or("error");
        let message = frame.message.as_deref().unwrap_or_default();
        let text = format!("{}: {}: {}", channel.escape_debug(), code.escape_debug(), message.escape_debug());
        if frame.temporary { Lost::Temporarily(text) } else { Failure::failed(text).into() }
    }
}

impl Feed {
    fn subscribe(&self, id: usize, backlog: Option<u64>) -> String {
        let mut command = json!({"type": "subscribe", "id": id.to_string(), "channel": self.channel});
        match (&self.position, backlog) {
            (Some((epoch, offset)), _) => command["since"] = json!({"epoch": epoch, "offset": offset}),
            (None, Some(backlog)) => command["backlog"] = backlog.into(),
            (None, None) => {}
        }
        command.to_string()
    }
}

fn feed<'a>(feeds: &'a mut [Feed], frame: &Frame<'_>) -> Option<&'a mut Feed> {
    let channel = frame.channel.as_deref()?;
    feeds.iter_mut().find(|feed| feed.channel == channel)
}

fn hello(token: Option<&str>) -> String {
    match token {
        Some(token) => json!({"type": "hello", "token": token}).to_string(),
        None => json!({"type": "hello"}).to_string(),
    }
}

/// Half of the wait at least, so that many clients do not come back in one wave.
fn jittered(wait: Duration) -> Duration {
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    wait.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_and_never_longer_than_asked() {
        let wait = Duration::from_secs(10);
        assert!((0..100).map(|_| jittered(wait)).all(|jittered| jittered >= wait / 2 && jittered <= wait));
    }

    #[test]
    fn a_feed_asks_for_the_past_once_and_then_goes_on_behind_its_position() {
        let mut feed = Feed { channel: "c\"".into(), position: None, ended: false };
        let value = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let expected = json!({"type": "subscribe", "id": "1", "channel": "c\"", "backlog": 3});
        assert_eq!(value(feed.subscribe(1, Some(3))), expected);
        feed.position = Some(("k3".into(), 7));
        let expected = json!({"type": "subscribe", "id": "1", "channel": "c\"", "since": {"epoch": "k3", "offset": 7}});
        assert_eq!(value(feed.subscribe(1, Some(3))), expected);
    }
}
