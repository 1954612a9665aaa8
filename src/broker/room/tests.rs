//! Tests of rooms, with recording sockets and a clock that only the tests advance.

mod native;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::broker::{Connection, ConnectionLimits, Now, Phase, Socket};
use crate::protocol::CloseReason;
use crate::protocol::frame::room_frames::{RoomId, Sender};
use crate::protocol::websocket::text_frame;

/// Records all frames; these are short text frames.
#[derive(Default)]
struct RecordingSocket(Mutex<Vec<u8>>);

impl Socket for RecordingSocket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn try_write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        buffers.iter().try_fold(0, |sum, buffer| Ok(sum + self.try_write(buffer)?))
    }
}

/// A client: its connection, and its seat while it has one.
struct Client {
    connection: Arc<Connection<RecordingSocket>>,
    address: Option<IpAddr>,
    seat: Option<Seat>,
}

impl Client {
    fn new() -> Self {
        Self::at([192, 0, 2, 1])
    }

    fn at(address: [u8; 4]) -> Self {
        let connection = Arc::new(Connection::new(1, Arc::new(connection_limits()), RecordingSocket::default()));
        Self { connection, address: Some(address.into()), seat: None }
    }

    fn request(&self) -> JoinRequest {
        JoinRequest { connection: self.connection.clone(), sender: Arc::new(Sender::default()), address: self.address }
    }

    fn take(&mut self, joined: Result<Seat, CloseReason>) -> Result<(), CloseReason> {
        joined.map(|seat| self.seat = Some(seat))
    }

    fn send(&self, text: &str, now: Instant) -> Relayed {
        let seat = self.seat.as_ref().expect("a seat");
        seat.relay(text.len(), now, |_| text_frame(text.as_bytes()))
    }

    /// The frames since the last call; a Close as `Close CODE`.
    fn received(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.connection.socket().0.lock());
        let (mut rest, mut received) = (&bytes[..], Vec::new());
        while let [first, length, more @ ..] = rest {
            let (length, more) = match length {
                126 => (usize::from(u16::from_be_bytes([more[0], more[1]])), &more[2..]),
                short => (usize::from(*short), more),
            };
            let (payload, after) = more.split_at(length);
            received.push(match first & 15 {
                8 => format!("Close {}", u16::from_be_bytes([payload[0], payload[1]])),
                _ => String::from_utf8(payload.to_vec()).unwrap(),
            });
            rest = after;
        }
        received
    }

    fn received_json(&self) -> Vec<Value> {
        self.received().iter().map(|text| serde_json::from_str(text).unwrap_or(Value::from(text.as_str()))).collect()
    }
}

pub fn connection_limits() -> ConnectionLimits {
    let second = Duration::from_secs(1);
    ConnectionLimits {
        outbox_bytes: 1 << 20,
        outbox_frames: 1000,
        stall: second,
        close: second,
        ping: second,
        pong: second,
        close_silent_without_ping: None,
    }
}

pub fn limits() -> RoomLimits {
    RoomLimits {
        max_exchanges: 10,
        relay: None,
        max_data_bytes: 0,
        lifespan: Duration::from_secs(300),
        max_connections: 3,
        max_rooms: 1000,
        max_rooms_per_address: 0,
        max_seats: 4,
        resume: Duration::from_secs(30),
        resume_messages: 4,
        resume_bytes: 10_000,
        code: Duration::from_secs(120),
        code_attempts: 3,
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The id in the first frame of the channelserver protocol.
fn opened(client: &Client) -> RoomId {
    let first = client.received_json().remove(0);
    RoomId::parse(first["channelid"].as_str().unwrap()).unwrap()
}

/// Two clients in one room of a protocol.
fn pair(rooms: &Rooms, protocol: &str, now: Instant) -> (Client, Client) {
    let (mut a, mut b) = (Client::new(), Client::new());
    match protocol {
        "channelserver" => {
            a.take(rooms.open_channel(new_id().unwrap(), a.request(), now)).unwrap();
            let id = opened(&a);
            b.take(rooms.join_channel(id, b.request(), now)).unwrap();
        }
        "relay" => {
            a.take(rooms.join_relay("x", a.request(), now)).unwrap();
            b.take(rooms.join_relay("x", b.request(), now)).unwrap();
        }
        _ => {
            let opened = rooms.open(OpenOptions::default(), None, Now { monotonic: now, ..Now::read() }).unwrap();
            for client in [&mut a, &mut b] {
                let credential = Credential::Secret(&opened.join_secret);
                client.take(rooms.join_native(Some(opened.room), credential, client.request(), now)).unwrap();
            }
        }
    }
    a.received();
    b.received();
    (a, b)
}

const PROTOCOLS: [&str; 3] = ["channelserver", "relay", "native"];

#[test]
fn message_over_limit_ends_room() {
    for protocol in PROTOCOLS {
        let (rooms, now) = (Rooms::new(limits()), Instant::now());
        let (a, b) = pair(&rooms, protocol, now);
        for n in 0..10 {
            let (from, to) = if n % 3 == 0 { (&a, &b) } else { (&b, &a) };
            assert_eq!(from.send("x", now), Relayed::Sent, "{protocol}");
            assert_eq!(to.received(), ["x"], "{protocol}");
        }
        assert_eq!(a.send("y", now), Relayed::Ended, "{protocol}");
        assert_eq!((a.received(), b.received()), (vec!["Close 4506".into()], vec!["Close 4506".into()]), "{protocol}");
        assert_eq!(rooms.count(), 0, "{protocol}");
        assert_eq!(b.send("y", now), Relayed::Ended, "{protocol}");
    }
}

#[test]
fn byte_over_limit_ends_room() {
    for protocol in PROTOCOLS {
        let (rooms, now) = (Rooms::new(RoomLimits { max_data_bytes: 8, ..limits() }), Instant::now());
        let (a, b) = pair(&rooms, protocol, now);
        assert_eq!((a.send("12345", now), b.send("678", now)), (Relayed::Sent, Relayed::Sent), "{protocol}");
        assert_eq!((a.received(), b.received()), (vec!["678".into()], vec!["12345".into()]), "{protocol}");
        assert_eq!(a.send("9", now), Relayed::Ended, "{protocol}");
        assert_eq!(b.received(), ["Close 4507"], "{protocol}");
    }
}

#[test]
fn lifespan_ends_room() {
    for protocol in PROTOCOLS {
        let (rooms, now) = (Rooms::new(limits()), Instant::now());
        let (a, b) = pair(&rooms, protocol, now);
        let last = now + secs(300) - Duration::from_millis(1);
        rooms.sweep(last);
        assert_eq!(a.send("x", last), Relayed::Sent, "{protocol}");
        rooms.sweep(now + secs(300));
        assert_eq!(
            (a.received(), b.received()),
            (vec!["Close 4505".into()], vec!["x".into(), "Close 4505".into()]),
            "{protocol}"
        );
        assert_eq!(rooms.count(), 0, "{protocol}");
        // Also without a sweep, nothing is relayed after that second.
        let (a, b) = pair(&rooms, protocol, now);
        assert_eq!(a.send("x", now + secs(300)), Relayed::Ended, "{protocol}");
        assert_eq!(b.received(), ["Close 4505"], "{protocol}");
    }
}

#[test]
fn rejoin_keeps_usage() {
    let (rooms, now) = (Rooms::new(RoomLimits { max_exchanges: 3, ..limits() }), Instant::now());
    // The channelserver protocol, first one peer and then the other.
    let (mut a, mut b) = (Client::new(), Client::new());
    a.take(rooms.open_channel(new_id().unwrap(), a.request(), now)).unwrap();
    let id = opened(&a);
    b.take(rooms.join_channel(id, b.request(), now)).unwrap();
    for client in [&mut b, &mut a] {
        assert_eq!(client.send("x", now), Relayed::Sent);
        client.seat = None;
        client.take(rooms.join_channel(id, client.request(), now)).unwrap();
    }
    assert_eq!((b.send("x", now), b.send("x", now)), (Relayed::Sent, Relayed::Ended));
    // The relay protocol: the usage of a pair stays with the peer that is left.
    let (mut a, b) = pair(&rooms, "relay", now);
    assert_eq!((a.send("x", now), b.send("x", now)), (Relayed::Sent, Relayed::Sent));
    a.seat = None;
    a.take(rooms.join_relay("x", a.request(), now + secs(100))).unwrap();
    assert_eq!((a.send("x", now), a.send("x", now)), (Relayed::Sent, Relayed::Ended));
    let (mut a, b) = pair(&rooms, "relay", now);
    a.seat = None;
    a.take(rooms.join_relay("x", a.request(), now + secs(200))).unwrap();
    rooms.sweep(now + secs(300));
    assert_eq!(b.received().last().unwrap(), "Close 4505");
}

#[test]
fn relay_control_messages_in_order() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let join = || {
        let mut client = Client::new();
        client.take(rooms.join_relay("id", client.request(), now)).unwrap();
        client
    };
    let a = join();
    assert_eq!(a.received(), ["/status:waiting"]);
    assert_eq!(a.send("anyone?", now), Relayed::NoPeer);
    let b = join();
    assert_eq!(
        (a.received(), b.received()),
        (vec!["/remote:open".into(), "/status:connected".into()], vec!["/status:connected".into()])
    );
    a.send("hello", now);
    assert_eq!(b.received(), ["hello"]);
    let c = join();
    assert_eq!((c.received(), a.received(), b.received()), (vec!["/status:waiting".into()], vec![], vec![]));
    drop(b);
    assert_eq!(a.received(), ["/remote:close", "/status:connected"]);
    assert_eq!(c.received(), ["/remote:open", "/status:connected"]);
    c.send("/remote:close", now);
    assert_eq!(a.received(), ["/remote:close"]);
    assert_eq!(a.send("still here", now), Relayed::Sent);
    assert_eq!(c.received(), ["still here"]);
    drop(c);
    assert_eq!(a.received(), ["/remote:close", "/status:waiting"]);
    drop(a);
    assert_eq!(rooms.count(), 0);
}

#[test]
fn dead_waiter_is_not_paired() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let mut dead = Client::new();
    dead.take(rooms.join_relay("id", dead.request(), now)).unwrap();
    dead.connection.close(CloseReason::PingTimeout);
    let mut next = Client::new();
    next.take(rooms.join_relay("id", next.request(), now)).unwrap();
    assert_eq!(next.received(), ["/status:waiting"]);
    drop(dead);
    assert_eq!(rooms.count(), 1);
}

#[test]
fn third_address_is_refused() {
    let rooms = Rooms::new(RoomLimits { max_connections: 5, ..limits() });
    let now = Instant::now();
    let mut a = Client::at([192, 0, 2, 1]);
    a.take(rooms.open_channel(new_id().unwrap(), a.request(), now)).unwrap();
    let id = opened(&a);
    let mut b = Client::at([192, 0, 2, 2]);
    b.take(rooms.join_channel(id, b.request(), now)).unwrap();
    let refused = |client: &Client| rooms.join_channel(id, client.request(), now).err();
    assert_eq!(refused(&Client::at([192, 0, 2, 3])), Some(CloseReason::Forbidden));
    assert_eq!(refused(&Client { address: None, ..Client::new() }), Some(CloseReason::Forbidden));
    // Also after the second left.
    b.seat = None;
    assert_eq!(refused(&Client::at([192, 0, 2, 3])), Some(CloseReason::Forbidden));
    let mut others: Vec<_> = (0..4).map(|_| Client::at([192, 0, 2, 2])).collect();
    others.iter_mut().for_each(|client| client.take(rooms.join_channel(id, client.request(), now)).unwrap());
    assert_eq!(refused(&Client::at([192, 0, 2, 1])), Some(CloseReason::ConnectionLimit));
}

#[test]
fn ended_rooms_free_their_entries() {
    let rooms = Rooms::new(RoomLimits { max_rooms: 100_000, max_rooms_per_address: 100_000, ..limits() });
    let now = Now::read();
    let mut seats = Vec::new();
    for n in 0..50_000u32 {
        let mut client = Client::new();
        let joined = match n % 2 {
            0 => rooms.open_channel(new_id().unwrap(), client.request(), now.monotonic),
            _ => rooms.join_relay(&n.to_string(), client.request(), now.monotonic),
        };
        client.take(joined).unwrap();
        seats.push(client.seat.take());
    }
    assert_eq!(rooms.count(), 50_000);
    drop(seats);
    assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    assert!(rooms.0.context.quota.is_empty());
}

proptest! {
    /// After any order of joins and leaves, each peer is in exactly one pair or is the only waiting one, and was sent
    /// which.
    #[test]
    fn relay_pairs_are_exclusive(steps in proptest::collection::vec((0usize..12, any::<bool>()), 1..200)) {
        let rooms = Rooms::new(RoomLimits { max_exchanges: 0, ..limits() });
        let now = Instant::now();
        let mut clients: Vec<Option<Client>> = (0..12).map(|_| None).collect();
        // The last state that each client was sent.
        let mut paired = [false; 12];
        for (at, breaks) in steps {
            match clients[at].take() {
                None => {
                    let mut client = Client::new();
                    client.take(rooms.join_relay("id", client.request(), now)).unwrap();
                    clients[at] = Some(client);
                }
                Some(client) => if breaks { client.connection.close(CloseReason::PingTimeout) },
            }
            for (client, paired) in clients.iter().zip(&mut paired) {
                for word in client.iter().flat_map(Client::received) {
                    *paired = word == "/status:connected";
                }
            }
            let present: Vec<_> = clients.iter().enumerate().filter(|(_, client)| client.is_some()).collect();
            prop_assert!(present.iter().filter(|(at, _)| !paired[*at]).count() <= 1);
            for (at, client) in &present {
                let sent = client.as_ref().unwrap().send("hello", now);
                prop_assert_eq!(sent, if paired[*at] { Relayed::Sent } else { Relayed::NoPeer });
                let received: Vec<usize> = present.iter().filter(|(_, other)| other.as_ref().unwrap().received() == ["hello"]).map(|(at, _)| *at).collect();
                prop_assert_eq!(received.len(), usize::from(paired[*at]));
                prop_assert!(!received.contains(at));
            }
        }
        clients.clear();
        prop_assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    }
}

#[test]
fn concurrent_joins_make_exclusive_pairs() {
    let rooms = Rooms::new(limits());
    let now = Instant::now();
    for round in 0..100 {
        let id = round.to_string();
        let clients: Vec<Client> = std::thread::scope(|scope| {
            let join = || {
                let mut client = Client::new();
                client.take(rooms.join_relay(&id, client.request(), now)).unwrap();
                client
            };
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(join)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        clients.iter().for_each(|client| drop(client.received()));
        for client in &clients {
            assert_eq!(client.send("x", now), Relayed::Sent);
            let received = clients.iter().filter(|other| other.received() == ["x"]).count();
            assert_eq!(received, 1);
        }
        assert_eq!(rooms.count(), 5);
        std::thread::scope(|scope| clients.into_iter().for_each(|client| drop(scope.spawn(move || drop(client)))));
        assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    }
}

#[test]
fn closed_connection_receives_nothing() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let (a, b) = pair(&rooms, "channelserver", now);
    b.connection.abandon();
    assert_eq!(a.send("x", now), Relayed::Sent);
    assert_eq!((b.received(), b.connection.phase()), (vec![], Phase::Closed(CloseReason::Normal)));
}
