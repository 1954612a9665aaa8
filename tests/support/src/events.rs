//! Clients of the fallbacks: a strict reader of server-sent events, JSON lines, and polls.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lastmile::transport::config::Address;
use serde_json::Value;

use crate::gateway::TestEnv;
use crate::http::{Answer, connect, send};
use crate::with_timeout;

/// One event as a browser hands it to a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The last event id at that time.
    pub id: String,
    pub kind: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Reads an event stream byte by byte (HTML standard, section 9.2.6).
#[derive(Default)]
pub struct EventReader {
    bytes: Vec<u8>,
    last_id: String,
    kind: String,
    data: String,
    /// Comments so far.
    pub comments: usize,
    pub retry: Option<u64>,
    pub events: VecDeque<Event>,
}

impl EventReader {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            let is_crlf = match (self.bytes[end], self.bytes.get(end + 1)) {
                (b'\r', None) => return,
                (b'\r', Some(b'\n')) => true,
                _ => false,
            };
            let line = String::from_utf8(self.bytes.drain(..end).collect()).expect("UTF-8");
            self.bytes.drain(..1 + usize::from(is_crlf));
            self.line(&line);
        }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if let Some(data) = data.strip_suffix('\n') {
                let kind = if kind.is_empty() { "message".to_owned() } else { kind };
                self.events.push_back(Event { id: self.last_id.clone(), kind, data: data.to_owned() });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => self.kind = value.to_owned(),
            "data" => self.data.extend([value, "\n"]),
            "id" if !value.contains('\0') => self.last_id = value.to_owned(),
            "retry" => self.retry = value.parse().ok(),
            // Nothing here writes anything else.
            other => panic!("an unknown field {other:?}"),
        }
    }
}

/// A streamed answer.
pub struct Stream {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    pub reader: EventReader,
    /// For JSON lines.
    pub lines: VecDeque<String>,
    partial: Vec<u8>,
    /// Lines without anything.
    pub blanks: usize,
}

impl Stream {
    /// The body of a 200, or the answer that was none.
    pub async fn open(address: &Address, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let io = connect(address).await;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let request = request(address, "GET", path, headers).map(Full::new);
        let response = with_timeout("an answer", sender.send_request(request)).await.expect("an answer");
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let body = with_timeout("a body", body.collect()).await.unwrap().to_bytes();
            return Err(Answer { status: head.status, headers: head.headers, body });
        }
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body,
            reader: EventReader::default(),
            lines: VecDeque::new(),
            partial: Vec::new(),
            blanks: 0,
        })
    }

    /// More of the body; `false` at its end.
    async fn more(&mut self) -> Option<Bytes> {
        let frame = with_timeout("more of the stream", self.body.frame()).await?;
        frame.ok()?.into_data().ok()
    }

    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.reader.events.pop_front() {
                return Some(event);
            }
            let bytes = self.more().await?;
            self.reader.feed(&bytes);
        }
    }

    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> impl Future<Output = Event> {
        let at = std::panic::Location::caller();
        async move {
            let event = self.next().await.unwrap_or_else(|| panic!("{at}: the stream ended before a {kind}"));
            assert_eq!(event.kind, kind, "{at}: {event:?}");
            event
        }
    }

    /// Reads until so many comments came.
    pub async fn comments(&mut self, count: usize) {
        while self.reader.comments < count {
            let bytes = self.more().await.expect("a stream that goes on");
            self.reader.feed(&bytes);
        }
    }

    /// The next JSON line; blank ones are counted.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
            self.read_lines().await?;
        }
    }

    pub async fn read_lines(&mut self) -> Option<()> {
        let bytes = self.more().await?;
        self.partial.extend_from_slice(&bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            match &line[..end] {
                [] => self.blanks += 1,
                line => self.lines.push_back(String::from_utf8(line.to_vec()).unwrap()),
            }
        }
        Some(())
    }
}

pub fn request(address: &Address, method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", address.to_string());
    }
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Bytes::new()).unwrap()
}

impl TestEnv {
    pub async fn try_events(&self, query: &str, headers: &[(&str, &str)]) -> Result<Stream, Answer> {
        Stream::open(self.gateway.address("public"), &format!("/v1/events?{query}"), headers).await
    }

    /// A stream of the listener `public`, which must be given.
    pub async fn events(&self, query: &str) -> Stream {
        self.try_events(query, &[]).await.expect("a stream")
    }

    pub async fn lines(&self, query: &str) -> Stream {
        self.try_events(query, &[("accept", "application/x-ndjson")]).await.expect("a stream")
    }

    pub async fn try_poll(&self, query: &str, headers: &[(&str, &str)]) -> Answer {
        let address = self.gateway.address("public");
        send(address, request(address, "GET", &format!("/v1/poll?{query}"), headers)).await
    }

    /// One poll, which must be answered.
    pub async fn poll(&self, query: &str) -> Value {
        let answer = self.try_poll(query, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        answer.json()
    }
}
