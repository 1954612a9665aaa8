//! Tests of the broker with sockets that take as many bytes as a test lets them: random interleavings against
//! what must hold for every subscriber.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use proptest::prelude::*;

use lastmile::broker::channel::fanout::Delivery;
use lastmile::broker::engine::{Accepted, Appended, Created, Joined, Start};
use lastmile::broker::*;
use lastmile::engine::{Memory, MemoryLimits, WaitingLimits};
use lastmile::protocol::{ChannelName, CloseReason, ErrorCode, Form, Pattern, Payload, Position, Refusal};

/// Takes `room` bytes, then is full until a test makes room.
#[derive(Default)]
struct Fake(Mutex<FakeState>);

#[derive(Default)]
struct FakeState {
    room: usize,
    taken: Vec<u8>,
}

impl Fake {
    fn make_room(&self, bytes: usize) {
        let mut state = self.0.lock();
        state.room = state.room.saturating_add(bytes);
    }

    /// The payloads of the frames that arrived whole, and whether more bytes follow them.
    fn frames(&self) -> (Vec<String>, bool) {
        let taken = self.0.lock().taken.clone();
        let mut rest = &taken[..];
        let mut frames = Vec::new();
        while let [first, length, body @ ..] = rest {
            let (length, body) = match (*length, body) {
                (126, [high, low, body @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), body),
                (126.., _) => break,
                (length, body) => (usize::from(length), body),
            };
            if body.len() < length {
                break;
            }
            let payload = if *first & 0x40 == 0 { body[..length].to_vec() } else { inflate(&body[..length]) };
            frames.push(String::from_utf8_lossy(&payload).into_owned());
            rest = &body[length..];
        }
        (frames, !rest.is_empty())
    }

    fn offsets(&self) -> Vec<u64> {
        let messages = self.frames().0.into_iter().filter(|frame| frame.starts_with(r#"{"type":"message""#));
        messages
            .map(|frame| serde_json::from_str::<serde_json::Value>(&frame).unwrap()["offset"].as_u64().unwrap())
            .collect()
    }
}

impl Socket for Fake {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let count = bytes.len().min(state.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.room -= count;
        state.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(&buffers.iter().flat_map(|buffer| buffer.to_vec()).collect::<Vec<_>>())
    }
}

/// Inflates a compressed frame. No context is kept between frames.
fn inflate(deflated: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(65536);
    let whole = [deflated, &[0, 0, 0xff, 0xff]].concat();
    flate2::Decompress::new(false).decompress_vec(&whole, &mut bytes, flate2::FlushDecompress::Sync).unwrap();
    bytes
}

const LIMITS: ConnectionLimits = ConnectionLimits {
    outbox_bytes: 2000,
    outbox_frames: 1000,
    stall: Duration::from_secs(5),
    close: Duration::from_secs(5),
    ping: Duration::from_secs(25),
    pong: Duration::from_secs(10),
    close_silent_without_ping: None,
};

fn connection(id: u64, room: usize) -> Arc<Connection<Fake>> {
    let fake = Fake::default();
    fake.make_room(room);
    Arc::new(Connection::new(id, Arc::new(LIMITS), fake))
}

/// An engine with one rule for all channels.
fn engine(slow_consumer: SlowConsumer, limits: ChannelLimits, backlog: u64) -> Memory {
    let counters = Arc::new(Counters::default());
    let default = ChannelRule {
        pattern: Pattern::new("*"),
        claim_pattern: None,
        deny: Vec::new(),
        subscribers: Audience::Anyone,
        limits,
        slow_consumer,
        compress: true,
        backlog_messages: backlog,
        backlog_age: Duration::ZERO,
        backlog_bytes: 0,
        replies: false,
    };
    let rules =
        Arc::new(ArcSwap::from_pointee(ChannelRules { rules: Vec::new(), default, issuers: Default::default() }));
    let hub = Hub::new(2, counters.clone(), finish);
    Memory::new(
        MemoryLimits {
            max_channels: 10,
            waiting: WaitingLimits { max_names: 10, max_names_per_holder: 10 },
            idle: Duration::from_secs(60),
            max_backlog_bytes: 1 << 20,
            max_store_entries: 1000,
        },
        rules,
        hub,
        counters,
    )
}

const NO_LIMITS: ChannelLimits = ChannelLimits {
    max_connections: 0,
    max_messages: 0,
    max_data_bytes: 0,
    max_message_bytes: 0,
    lifespan: Duration::ZERO,
};

fn channel() -> ChannelName {
    ChannelName::parse("c").unwrap()
}

fn request(connection: &Arc<Connection<Fake>>, form: Form) -> JoinRequest {
    let holder = Holder::of_address(None);
    JoinRequest { connection: connection.clone(), principal: None, holder, form, tag: 1 }
}

fn join(engine: &Memory, connection: &Arc<Connection<Fake>>, start: Start) -> (Membership, u64, bool) {
    let newcomer = request(connection, Form::Native);
    let mut result = (0, false);
    let mut announce = |joined: Joined<'_>| {
        result = (joined.position.offset, joined.recovered);
        for publication in joined.history {
            connection.send(publication.frame(Form::Native));
        }
    };
    let membership = engine.subscribe(&channel(), newcomer, start, Now::read(), &mut announce).unwrap();
    (membership, result.0, result.1)
}

fn publish(engine: &Memory) -> Vec<Delivery> {
    append(engine, Now::read()).unwrap().deliveries.list
}

fn append(engine: &Memory, now: Now) -> Result<Accepted, Refusal> {
    match engine.append(&channel(), "p", Payload::Json("1"), now)? {
        Appended::Done(accepted) => Ok(accepted),
        Appended::Pending(_) => panic!("the memory engine answers at once"),
    }
}

/// The result of a future that is ready at once.
fn now<T>(answer: BoxFuture<'_, Result<T, Refusal>>) -> T {
    answer.now_or_never().expect("the memory engine answers at once").unwrap()
}

fn finish(mut delivery: Delivery) {
    while delivery.run_some(1) {}
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// One member of one delivery that is under way.
    Deliver(usize),
    Join(u64),
    Leave(usize),
    Room(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        8 => any::<usize>().prop_map(Step::Deliver),
        2 => (0u64..4).prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        6 => (any::<usize>(), 0usize..400).prop_map(|(who, bytes)| Step::Room(who, bytes)),
    ]
}

struct Subscriber {
    connection: Arc<Connection<Fake>>,
    membership: Option<Membership>,
    /// The first offset it must get, and the last one if it left.
    first: u64,
    last: Option<u64>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever joins, leaves, publishes and stalls in between: each subscriber gets each publication from its
    /// first to its last once and in order, unless it was closed as a slow consumer, and then a part from the front.
    #[test]
    fn every_subscriber_gets_each_once(steps in proptest::collection::vec(step(), 1..200)) {
        let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 3);
        let mut subscribers: Vec<Subscriber> = Vec::new();
        let mut deliveries: VecDeque<Delivery> = VecDeque::new();
        let mut published = 0;
        for step in steps {
            match step {
                Step::Publish => {
                    deliveries.extend(publish(&engine));
                    published += 1;
                }
                Step::Deliver(which) if !deliveries.is_empty() => {
                    let which = which % deliveries.len();
                    if !deliveries[which].run_some(1) {
                        deliveries.remove(which);
                    }
                }
                Step::Join(backlog) => {
                    let connection = connection(subscribers.len() as u64, 100);
                    let (membership, offset, _) = join(&engine, &connection, Start::Backlog(backlog));
                    prop_assert_eq!(offset, published);
                    let first = published - backlog.min(3).min(published) + 1;
                    subscribers.push(Subscriber { connection, membership: Some(membership), first, last: None });
                }
                Step::Leave(who) if !subscribers.is_empty() => {
                    let who = who % subscribers.len();
                    let subscriber = &mut subscribers[who];
                    if subscriber.membership.take().is_some() {
                        subscriber.last = Some(published);
                    }
                }
                Step::Room(who, bytes) if !subscribers.is_empty() => {
                    let who = who % subscribers.len();
                    let subscriber = &mut subscribers[who];
                    subscriber.connection.socket().make_room(bytes);
                    subscriber.connection.flush().unwrap();
                }
                _ => {}
            }
        }
        deliveries.into_iter().for_each(finish);
        for subscriber in &subscribers {
            let connection = &subscriber.connection;
            connection.socket().make_room(usize::MAX);
            connection.flush().unwrap();
            prop_assert!(!connection.socket().frames().1, "half a frame was sent");
            let got = connection.socket().offsets();
            let in_order: Vec<u64> = (subscriber.first..).take(got.len()).collect();
            prop_assert_eq!(&got, &in_order);
            let is_slow = connection.phase() == Phase::Closing(CloseReason::SlowConsumer);
            let wanted = subscriber.last.unwrap_or(published) + 1 - subscriber.first;
            if subscriber.last.is_none() && !is_slow {
                prop_assert_eq!(got.len() as u64, wanted);
            } else {
                prop_assert!(got.len() as u64 <= wanted);
            }
        }
    }
}

#[test]
fn queued_frames_share_a_write() {
    let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 0);
    let connection = connection(1, usize::MAX);
    let (_membership, ..) = join(&engine, &connection, Start::Live);
    let deliveries = publish(&engine);
    assert_eq!(deliveries.len(), 1);
    // The delivery is not run yet, so the next ones wait for it.
    assert!(publish(&engine).is_empty() && publish(&engine).is_empty());
    deliveries.into_iter().for_each(finish);
    assert_eq!(connection.socket().offsets(), [1, 2, 3]);
    assert_eq!(publish(&engine).len(), 1, "the next publication begins a delivery again");
}

#[test]
fn unread_subscriber_is_closed_at_limit() {
    let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 0);
    let (sleeper, reader) = (connection(1, 50), connection(2, usize::MAX));
    let (_one, ..) = join(&engine, &sleeper, Start::Live);
    let (_other, ..) = join(&engine, &reader, Start::Live);
    for _ in 0..1000 {
        publish(&engine).into_iter().for_each(finish);
        assert!(sleeper.waiting_bytes() <= LIMITS.outbox_bytes);
    }
    assert_eq!(sleeper.phase(), Phase::Closing(CloseReason::SlowConsumer));
    assert_eq!(reader.socket().offsets(), (1..=1000).collect::<Vec<_>>());
    // When it reads at last, it finds the frame that was begun and then its Close.
    sleeper.socket().make_room(usize::MAX);
    sleeper.flush().unwrap();
    let (frames, rest) = sleeper.socket().frames();
    assert_eq!((frames.len(), rest), (2, false));
    assert!(frames[1].ends_with("slow_consumer"));
}

#[test]
fn latest_keeps_newest_for_laggards() {
    let engine = engine(SlowConsumer::Latest, NO_LIMITS, 0);
    let laggard = connection(1, 50);
    let (_membership, ..) = join(&engine, &laggard, Start::Live);
    for _ in 0..1000 {
        publish(&engine).into_iter().for_each(finish);
    }
    assert_eq!(laggard.phase(), Phase::Open);
    laggard.socket().make_room(usize::MAX);
    laggard.flush().unwrap();
    assert_eq!(laggard.socket().offsets(), [1, 1000], "the one that was begun, and the newest");
}

#[test]
fn nothing_follows_channel_end() {
    let engine = engine(SlowConsumer::Disconnect, ChannelLimits { max_messages: 2, ..NO_LIMITS }, 0);
    let connection = connection(1, usize::MAX);
    let (membership, ..) = join(&engine, &connection, Start::Live);
    let deliveries: Vec<_> = (0..2).flat_map(|_| publish(&engine)).collect();
    // The third ends the channel while the delivery of the first two has not been run.
    assert!(engine.append(&channel(), "p", Payload::Json("1"), Now::read()).is_err());
    deliveries.into_iter().for_each(finish);
    let (frames, _) = connection.socket().frames();
    assert_eq!(connection.socket().offsets(), [1, 2]);
    assert!(frames[2].contains(r#""reason":"message_limit","code":4506"#), "{frames:?}");
    assert!(frames[3].ends_with("message_limit"), "it was the last channel: {frames:?}");
    assert!(!membership.is_active());
}

#[test]
fn recovered_only_if_complete() {
    let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 3);
    let first = join(&engine, &connection(0, usize::MAX), Start::Live);
    (0..5).for_each(|_| publish(&engine).into_iter().for_each(finish));
    let epoch = now(engine.describe(&channel())).unwrap().position.epoch;
    let check = |start: Start, expected: &[u64], recovered: bool| {
        let connection = connection(1, usize::MAX);
        let (_membership, _, is_recovered) = join(&engine, &connection, start.clone());
        assert_eq!((connection.socket().offsets().as_slice(), is_recovered), (expected, recovered), "{start:?}");
    };
    let since = |offset| Start::Since(Position { epoch: epoch.clone(), offset });
    check(Start::Live, &[], false);
    check(since(5), &[], true);
    check(since(3), &[4, 5], true);
    check(since(2), &[3, 4, 5], true);
    check(since(1), &[3, 4, 5], false);
    check(since(6), &[3, 4, 5], false);
    check(Start::Since(Position { epoch: "other".into(), offset: 5 }), &[3, 4, 5], false);
    check(Start::Backlog(2), &[4, 5], true);
    check(Start::Backlog(9), &[3, 4, 5], false);
    drop(first);
}

#[test]
fn lifespan_ends_channel_then_restarts() {
    let engine = engine(SlowConsumer::Disconnect, ChannelLimits { lifespan: Duration::from_secs(10), ..NO_LIMITS }, 0);
    let connection = connection(1, usize::MAX);
    let start = Now::read();
    let (membership, ..) = join(&engine, &connection, Start::Live);
    let at = |seconds: u64| Now { monotonic: start.monotonic + Duration::from_secs(seconds), ..start };
    assert!(append(&engine, start).is_ok());
    engine.sweep(at(9));
    assert!(membership.is_active());
    engine.sweep(Now { monotonic: Instant::now() + Duration::from_secs(10), ..start });
    assert!(!membership.is_active());
    assert!(append(&engine, at(11)).is_err());
    assert_eq!(now(engine.create(&channel(), None, at(12))), Created::New);
    assert_eq!(append(&engine, at(13)).unwrap().position.offset, 1);
}

#[test]
fn unused_channels_are_removed() {
    let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 0);
    publish(&engine).into_iter().for_each(finish);
    let later = |seconds| Now { monotonic: Instant::now() + Duration::from_secs(seconds), ..Now::read() };
    engine.sweep(later(59));
    assert!(now(engine.describe(&channel())).is_some());
    engine.sweep(later(61));
    assert!(now(engine.describe(&channel())).is_none());
    let mut channels = (0..11).map(|n| ChannelName::parse(&format!("c{n}")).unwrap());
    let refused = channels.find_map(|name| engine.append(&name, "p", Payload::Json("1"), Now::read()).err());
    assert_eq!(refused.map(|refusal| refusal.code), Some(ErrorCode::LimitReached));
}

/// Content that is unique to one publication.
fn marked(channel: usize, offset: u64) -> String {
    let mark = format!("c{channel}:{offset};");
    // Some are too short to be compressed.
    format!("\"{}\"", mark.repeat(1 + offset as usize * 7 % 50))
}

#[derive(Clone, Debug)]
enum Mixed {
    Publish(usize),
    Delivery(usize),
    Room(usize, usize),
}

fn mixed() -> impl Strategy<Value = Mixed> {
    prop_oneof![
        4 => (0usize..2).prop_map(Mixed::Publish),
        8 => any::<usize>().prop_map(Mixed::Delivery),
        8 => (any::<usize>(), 0usize..900).prop_map(|(who, bytes)| Mixed::Room(who, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Two channels, with and without compression: each subscriber receives complete frames of its own channel only,
    /// however its socket stalls.
    #[test]
    fn frames_reach_only_their_subscribers(steps in proptest::collection::vec(mixed(), 1..200)) {
        let engine = engine(SlowConsumer::Disconnect, NO_LIMITS, 0);
        let channels = [0, 1].map(|n| ChannelName::parse(&format!("c{n}")).unwrap());
        let subscribers: Vec<_> = (0..8)
            .map(|n| {
                let connection = connection(n, 100);
                let form = if n % 4 < 2 { Form::Deflated } else { Form::Native };
                let newcomer = request(&connection, form);
                let channel = &channels[n as usize % 2];
                let membership = engine.subscribe(channel, newcomer, Start::Live, Now::read(), &mut |_| {}).unwrap();
                (connection, membership)
            })
            .collect();
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut published = [0, 0];
        for step in steps {
            match step {
                Mixed::Publish(which) => {
                    published[which] += 1;
                    let data = marked(which, published[which]);
                    let payload = Payload::Json(&data);
                    match engine.append(&channels[which], "p", payload, Now::read()).unwrap() {
                        Appended::Done(accepted) => deliveries.extend(accepted.deliveries.list),
                        Appended::Pending(_) => panic!("the memory engine answers at once"),
                    }
                }
                Mixed::Delivery(which) if !deliveries.is_empty() => {
                    let which = which % deliveries.len();
                    if !deliveries[which].run_some(1) {
                        drop(deliveries.remove(which));
                    }
                }
                Mixed::Delivery(_) => {}
                Mixed::Room(who, bytes) => {
                    let connection = &subscribers[who % subscribers.len()].0;
                    connection.socket().make_room(bytes);
                    connection.flush().unwrap();
                }
            }
        }
        deliveries.into_iter().for_each(finish);
        for (n, (connection, _membership)) in subscribers.iter().enumerate() {
            connection.socket().make_room(usize::MAX);
            connection.flush().unwrap();
            let (frames, rest) = connection.socket().frames();
            prop_assert!(!rest, "half a frame was sent");
            let messages: Vec<serde_json::Value> =
                frames.iter().filter_map(|frame| serde_json::from_str(frame).ok()).collect();
            let is_slow = connection.phase() == Phase::Closing(CloseReason::SlowConsumer);
            prop_assert_eq!(messages.len(), frames.len() - usize::from(is_slow));
            prop_assert!(is_slow || messages.len() as u64 == published[n % 2]);
            for (message, offset) in messages.iter().zip(1..) {
                let data: serde_json::Value = serde_json::from_str(&marked(n % 2, offset)).unwrap();
                prop_assert_eq!((&message["offset"], &message["data"]), (&offset.into(), &data));
            }
        }
    }
}
