//! The model of rooms, with sockets that only write down what they get and a clock that only the tests move.

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

/// A socket that keeps everything; its frames here are short text frames.
#[derive(Default)]
struct Script(Mutex<Vec<u8>>);

impl Socket for Script {
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
    connection: Arc<Connection<Script>>,
    address: Option<IpAddr>,
    seat: Option<Seat>,
}

impl Client {
    fn new() -> Self {
        Self::at([192, 0, 2, 1])
    }

    fn at(address: [u8; 4]) -> Self {
        let connection = Arc::new(Connection::new(1, Arc::new(connection_limits()), Script::default()));
        Self { connection, address: Some(address.into()), seat: None }
    }

    fn joiner(&self) -> JoinRequest {
        JoinRequest { connection: self.connection.clone(), sender: Arc::new(Sender::default()), address: self.address }
    }

    fn take(&mut self, joined: Result<Seat, CloseReason>) -> Result<(), CloseReason> {
        joined.map(|seat| self.seat = Some(seat))
    }

    fn say(&self, text: &str, now: Instant) -> Relayed {
        let seat = self.seat.as_ref().expect("a seat");
        seat.relay(text.len(), now, |_| text_frame(text.as_bytes()))
    }

    /// What it was sent since the last call; a Close is written as `Close CODE`.
    fn heard(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.connection.socket().0.lock());
        let (mut rest, mut heard) = (&bytes[..], Vec::new());
        while let [first, length, more @ ..] = rest {
            let (length, more) = match length {
                126 => (usize::from(u16::from_be_bytes([more[0], more[1]])), &more[2..]),
                short => (usize::from(*short), more),
            };
            let (payload, after) = more.split_at(length);
            heard.push(match first & 15 {
                8 => format!("Close {}", u16::from_be_bytes([payload[0], payload[1]])),
                _ => String::from_utf8(payload.to_vec()).unwrap(),
            });
            rest = after;
        }
        heard
    }

    fn heard_json(&self) -> Vec<Value> {
        self.heard().iter().map(|text| serde_json::from_str(text).unwrap_or(Value::from(text.as_str()))).collect()
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

/// The id in the first frame of the channelserver form.
fn opened(client: &Client) -> RoomId {
    let first = client.heard_json().remove(0);
    RoomId::parse(first["channelid"].as_str().unwrap()).unwrap()
}

/// Two clients in one room of a form.
fn pair(rooms: &Rooms, form: &str, now: Instant) -> (Client, Client) {
    let (mut a, mut b) = (Client::new(), Client::new());
    match form {
        "channelserver" => {
            a.take(rooms.open_channel(new_id().unwrap(), a.joiner(), now)).unwrap();
            let id = opened(&a);
            b.take(rooms.join_channel(id, b.joiner(), now)).unwrap();
        }
        "relay" => {
            a.take(rooms.join_relay("x", a.joiner(), now)).unwrap();
            b.take(rooms.join_relay("x", b.joiner(), now)).unwrap();
        }
        _ => {
            let opened = rooms.open(OpenOptions::default(), None, Now { monotonic: now, ..Now::read() }).unwrap();
            for client in [&mut a, &mut b] {
                let claim = Credential::Secret(&opened.join_secret);
                client.take(rooms.join_native(Some(opened.room), claim, client.joiner(), now)).unwrap();
            }
        }
    }
    a.heard();
    b.heard();
    (a, b)
}

const FORMS: [&str; 3] = ["channelserver", "relay", "native"];

#[test]
fn p_a_message_n_is_delivered_and_message_n_plus_1_ends_the_room() {
    for form in FORMS {
        let (rooms, now) = (Rooms::new(limits()), Instant::now());
        let (a, b) = pair(&rooms, form, now);
        for n in 0..10 {
            let (from, to) = if n % 3 == 0 { (&a, &b) } else { (&b, &a) };
            assert_eq!(from.say("x", now), Relayed::Sent, "{form}");
            assert_eq!(to.heard(), ["x"], "{form}");
        }
        assert_eq!(a.say("y", now), Relayed::Ended, "{form}");
        assert_eq!((a.heard(), b.heard()), (vec!["Close 4506".into()], vec!["Close 4506".into()]), "{form}");
        assert_eq!(rooms.count(), 0, "{form}");
        assert_eq!(b.say("y", now), Relayed::Ended, "{form}");
    }
}

#[test]
fn p_a_the_byte_at_the_limit_passes_and_the_next_one_ends_the_room() {
    for form in FORMS {
        let (rooms, now) = (Rooms::new(RoomLimits { max_data_bytes: 8, ..limits() }), Instant::now());
        let (a, b) = pair(&rooms, form, now);
        assert_eq!((a.say("12345", now), b.say("678", now)), (Relayed::Sent, Relayed::Sent), "{form}");
        assert_eq!((a.heard(), b.heard()), (vec!["678".into()], vec!["12345".into()]), "{form}");
        assert_eq!(a.say("9", now), Relayed::Ended, "{form}");
        assert_eq!(b.heard(), ["Close 4507"], "{form}");
    }
}

#[test]
fn p_a_a_room_ends_at_its_second_whatever_its_traffic() {
    for form in FORMS {
        let (rooms, now) = (Rooms::new(limits()), Instant::now());
        let (a, b) = pair(&rooms, form, now);
        let last = now + secs(300) - Duration::from_millis(1);
        rooms.sweep(last);
        assert_eq!(a.say("x", last), Relayed::Sent, "{form}");
        rooms.sweep(now + secs(300));
        assert_eq!(
            (a.heard(), b.heard()),
            (vec!["Close 4505".into()], vec!["x".into(), "Close 4505".into()]),
            "{form}"
        );
        assert_eq!(rooms.count(), 0, "{form}");
        // Nothing passes after that second either, should the sweep be late.
        let (a, b) = pair(&rooms, form, now);
        assert_eq!(a.say("x", now + secs(300)), Relayed::Ended, "{form}");
        assert_eq!(b.heard(), ["Close 4505"], "{form}");
    }
}

#[test]
fn p_a_coming_back_resets_no_limit() {
    let (rooms, now) = (Rooms::new(RoomLimits { max_exchanges: 3, ..limits() }), Instant::now());
    // The channelserver form, first one peer and then the other.
    let (mut a, mut b) = (Client::new(), Client::new());
    a.take(rooms.open_channel(new_id().unwrap(), a.joiner(), now)).unwrap();
    let id = opened(&a);
    b.take(rooms.join_channel(id, b.joiner(), now)).unwrap();
    for client in [&mut b, &mut a] {
        assert_eq!(client.say("x", now), Relayed::Sent);
        client.seat = None;
        client.take(rooms.join_channel(id, client.joiner(), now)).unwrap();
    }
    assert_eq!((b.say("x", now), b.say("x", now)), (Relayed::Sent, Relayed::Ended));
    // The relay form: what a pair has used stays with who is left.
    let (mut a, b) = pair(&rooms, "relay", now);
    assert_eq!((a.say("x", now), b.say("x", now)), (Relayed::Sent, Relayed::Sent));
    a.seat = None;
    a.take(rooms.join_relay("x", a.joiner(), now + secs(100))).unwrap();
    assert_eq!((a.say("x", now), a.say("x", now)), (Relayed::Sent, Relayed::Ended));
    let (mut a, b) = pair(&rooms, "relay", now);
    a.seat = None;
    a.take(rooms.join_relay("x", a.joiner(), now + secs(200))).unwrap();
    rooms.sweep(now + secs(300));
    assert_eq!(b.heard().last().unwrap(), "Close 4505");
}

#[test]
fn the_relay_says_its_words_in_order() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let join = || {
        let mut client = Client::new();
        client.take(rooms.join_relay("id", client.joiner(), now)).unwrap();
        client
    };
    let a = join();
    assert_eq!(a.heard(), ["/status:waiting"]);
    assert_eq!(a.say("anyone?", now), Relayed::NoPeer);
    let b = join();
    assert_eq!(
        (a.heard(), b.heard()),
        (vec!["/remote:open".into(), "/status:connected".into()], vec!["/status:connected".into()])
    );
    a.say("hello", now);
    assert_eq!(b.heard(), ["hello"]);
    let c = join();
    assert_eq!((c.heard(), a.heard(), b.heard()), (vec!["/status:waiting".into()], vec![], vec![]));
    drop(b);
    assert_eq!(a.heard(), ["/remote:close", "/status:connected"]);
    assert_eq!(c.heard(), ["/remote:open", "/status:connected"]);
    c.say("/remote:close", now);
    assert_eq!(a.heard(), ["/remote:close"]);
    assert_eq!(a.say("still here", now), Relayed::Sent);
    assert_eq!(c.heard(), ["still here"]);
    drop(c);
    assert_eq!(a.heard(), ["/remote:close", "/status:waiting"]);
    drop(a);
    assert_eq!(rooms.count(), 0);
}

#[test]
fn a_waiter_whose_connection_is_over_is_nobodys_peer() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let mut dead = Client::new();
    dead.take(rooms.join_relay("id", dead.joiner(), now)).unwrap();
    dead.connection.close(CloseReason::PingTimeout);
    let mut next = Client::new();
    next.take(rooms.join_relay("id", next.joiner(), now)).unwrap();
    assert_eq!(next.heard(), ["/status:waiting"]);
    drop(dead);
    assert_eq!(rooms.count(), 1);
}

#[test]
fn after_the_second_only_addresses_that_were_there_may_join() {
    let rooms = Rooms::new(RoomLimits { max_connections: 5, ..limits() });
    let now = Instant::now();
    let mut a = Client::at([192, 0, 2, 1]);
    a.take(rooms.open_channel(new_id().unwrap(), a.joiner(), now)).unwrap();
    let id = opened(&a);
    let mut b = Client::at([192, 0, 2, 2]);
    b.take(rooms.join_channel(id, b.joiner(), now)).unwrap();
    let refused = |client: &Client| rooms.join_channel(id, client.joiner(), now).err();
    assert_eq!(refused(&Client::at([192, 0, 2, 3])), Some(CloseReason::Forbidden));
    assert_eq!(refused(&Client { address: None, ..Client::new() }), Some(CloseReason::Forbidden));
    // Also once the second has left.
    b.seat = None;
    assert_eq!(refused(&Client::at([192, 0, 2, 3])), Some(CloseReason::Forbidden));
    let mut others: Vec<_> = (0..4).map(|_| Client::at([192, 0, 2, 2])).collect();
    others.iter_mut().for_each(|client| client.take(rooms.join_channel(id, client.joiner(), now)).unwrap());
    assert_eq!(refused(&Client::at([192, 0, 2, 1])), Some(CloseReason::ConnectionLimit));
}

#[test]
fn fifty_thousand_rooms_leave_nothing_behind() {
    let rooms = Rooms::new(RoomLimits { max_rooms: 100_000, max_rooms_per_address: 100_000, ..limits() });
    let now = Now::read();
    let mut seats = Vec::new();
    for n in 0..50_000u32 {
        let mut client = Client::new();
        let joined = match n % 2 {
            0 => rooms.open_channel(new_id().unwrap(), client.joiner(), now.monotonic),
            _ => rooms.join_relay(&n.to_string(), client.joiner(), now.monotonic),
        };
        client.take(joined).unwrap();
        seats.push(client.seat.take());
    }
    assert_eq!(rooms.count(), 50_000);
    drop(seats);
    assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    assert_eq!(rooms.0.context.quota.addresses(), 0);
}

proptest! {
    /// Whatever order peers come and go in, everybody is in exactly one pair or is the only one that waits, and knows
    /// which.
    #[test]
    fn t_p5_pairs_are_true_pairs(steps in proptest::collection::vec((0usize..12, any::<bool>()), 1..200)) {
        let rooms = Rooms::new(RoomLimits { max_exchanges: 0, ..limits() });
        let now = Instant::now();
        let mut clients: Vec<Option<Client>> = (0..12).map(|_| None).collect();
        // What each client was told last.
        let mut paired = [false; 12];
        for (at, breaks) in steps {
            match clients[at].take() {
                None => {
                    let mut client = Client::new();
                    client.take(rooms.join_relay("id", client.joiner(), now)).unwrap();
                    clients[at] = Some(client);
                }
                Some(client) => if breaks { client.connection.close(CloseReason::PingTimeout) },
            }
            for (client, paired) in clients.iter().zip(&mut paired) {
                for word in client.iter().flat_map(Client::heard) {
                    *paired = word == "/status:connected";
                }
            }
            let present: Vec<_> = clients.iter().enumerate().filter(|(_, client)| client.is_some()).collect();
            prop_assert!(present.iter().filter(|(at, _)| !paired[*at]).count() <= 1);
            for (at, client) in &present {
                let sent = client.as_ref().unwrap().say("hello", now);
                prop_assert_eq!(sent, if paired[*at] { Relayed::Sent } else { Relayed::NoPeer });
                let heard: Vec<usize> = present.iter().filter(|(_, other)| other.as_ref().unwrap().heard() == ["hello"]).map(|(at, _)| *at).collect();
                prop_assert_eq!(heard.len(), usize::from(paired[*at]));
                prop_assert!(!heard.contains(at));
            }
        }
        clients.clear();
        prop_assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    }
}

#[test]
fn t_p5_a_thousand_concurrent_joins_make_true_pairs() {
    let rooms = Rooms::new(limits());
    let now = Instant::now();
    for round in 0..100 {
        let id = round.to_string();
        let clients: Vec<Client> = std::thread::scope(|scope| {
            let join = || {
                let mut client = Client::new();
                client.take(rooms.join_relay(&id, client.joiner(), now)).unwrap();
                client
            };
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(join)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        clients.iter().for_each(|client| drop(client.heard()));
        for client in &clients {
            assert_eq!(client.say("x", now), Relayed::Sent);
            let heard = clients.iter().filter(|other| other.heard() == ["x"]).count();
            assert_eq!(heard, 1);
        }
        assert_eq!(rooms.count(), 5);
        std::thread::scope(|scope| clients.into_iter().for_each(|client| drop(scope.spawn(move || drop(client)))));
        assert_eq!((rooms.count(), rooms.keys().len()), (0, 0));
    }
}

#[test]
fn a_closed_connection_is_not_written_to() {
    let (rooms, now) = (Rooms::new(limits()), Instant::now());
    let (a, b) = pair(&rooms, "channelserver", now);
    b.connection.abandon();
    assert_eq!(a.say("x", now), Relayed::Sent);
    assert_eq!((b.heard(), b.connection.phase()), (vec![], Phase::Closed(CloseReason::Normal)));
}
