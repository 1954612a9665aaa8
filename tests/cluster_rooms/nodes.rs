//! Rooms over several nodes: races for seats, killed nodes, restarts of Redis.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lastmile::engine::redis::{RedisConfig, RedisKind, Unauthenticated, nodes};
use parking_lot::Mutex;
use serde_json::{Value, json};
use test_support::{ChildGateway, Received, RedisServer, TempDir, TestEnv, TestPublisher, Ws, child, eventually, get};

use crate::client::{FORMS, channel, decode, encode, join, open, open_native, open_room, pair};
use crate::{engine, start_nodes};

const PAIR: &str = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n[rooms]\nmax_exchanges = 0\n";

/// Races that are run at once.
const MAX_CONCURRENT_RACES: usize = 8;

/// Runs `ROOM_RACES` races, 200 by default.
async fn run_races<F: Future<Output = ()> + Send + 'static>(race: impl Fn(usize) -> F) {
    let count = std::env::var("ROOM_RACES").map_or(200, |count| count.parse().expect("a number"));
    for first in (0..count).step_by(MAX_CONCURRENT_RACES) {
        let running: Vec<_> = (first..count.min(first + MAX_CONCURRENT_RACES)).map(|n| tokio::spawn(race(n))).collect();
        for race in running {
            race.await.unwrap();
        }
    }
}

/// The first message of each peer that raced for the seat.
async fn outcomes(peers: Vec<Ws>) -> Vec<Received> {
    let mut received = Vec::new();
    for mut peer in peers {
        let first = peer.receive().await;
        // It stays until all have received theirs.
        received.push((peer, first));
    }
    received.into_iter().map(|(_, first)| first).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_race_for_last_seat() {
    let env = Arc::new(start_nodes(2, PAIR).await);
    run_races(|_| {
        let env = env.clone();
        async move {
            let room = open_room(&env, json!({})).await;
            let (_first, _) = join(&env, &room).await;
            let late = async || {
                let mut peer = open_native(&env, room["link"].as_str().unwrap()).await;
                peer.send(json!({"type": "join", "secret": room["join_secret"]})).await;
                peer
            };
            let (one, other) = tokio::join!(late(), late());
            let outcomes = outcomes(vec![one, other]).await;
            let seated =
                outcomes.iter().filter(|received| matches!(received, Received::Text(text) if text.contains("joined")));
            assert_eq!(seated.count(), 1, "{outcomes:?}");
            assert!(outcomes.contains(&Received::Close(4508, "connection_limit".into())), "{outcomes:?}");
        }
    })
    .await;
    env.await_metric("lastmile_carried_peers", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_on_three_nodes_form_pairs() {
    let env = Arc::new(start_nodes(3, PAIR).await);
    run_races(|n| {
        let env = env.clone();
        async move {
            let path = format!("/v1/relay/race-{n}");
            let open = || async { open(&env, &path).await };
            let mut peers = futures_util::future::join_all((0..10).map(|_| open())).await;
            for peer in &mut peers {
                match peer.text().await.as_str() {
                    "/status:connected" => {}
                    "/status:waiting" => peer.expect_texts(&["/remote:open", "/status:connected"]).await,
                    other => panic!("{other}"),
                }
            }
            // Each sends its number and receives that of its partner.
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.send_text(&number.to_string()).await;
            }
            let mut partner = Vec::new();
            for peer in &mut peers {
                partner.push(peer.text().await.parse::<usize>().unwrap());
            }
            for (number, other) in partner.iter().enumerate() {
                assert!(*other != number && partner[*other] == number, "{partner:?}");
            }
        }
    })
    .await;
    env.await_metric("lastmile_rooms", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_address_is_not_bound() {
    let env = Arc::new(start_nodes(3, &format!("{PAIR}max_connections = 2\n")).await);
    let (link, mut first) = channel(&env).await;
    let late: Vec<_> = futures_util::future::join_all((0..10).map(|_| open(&env, &link))).await;
    let mut winners = Vec::new();
    for mut peer in late {
        match peer.receive().await {
            Received::Text(_) => winners.push(peer),
            end => assert_eq!(end, Received::Close(4508, "connection_limit".into())),
        }
    }
    assert_eq!(winners.len(), 1);
    winners[0].send_text("hello").await;
    assert_eq!(decode("channelserver", &first.text().await), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_closes_forwarded_peers() {
    for drains_first in [true, false] {
        for form in FORMS {
            let mut env = start_nodes(2, PAIR).await;
            // The room is on the node of the first, except that a native room is on the node that was asked for it.
            let (mut a, mut b) = pair(&env, form).await;
            let other = env.others.remove(0);
            let drained = if drains_first { std::mem::replace(&mut env.gateway, other) } else { other };
            let began = Instant::now();
            let mut drain = drained.shut_down();
            // Peers of that node receive the close, and all peers do if the node owned the room.
            let (mut one, mut other) = (pin!(end(&mut a)), pin!(end(&mut b)));
            let (mut ends, mut report) = ([None, None], None);
            let is_draining = |end: &Option<Received>| *end == Some(Received::Close(4000, "draining".into()));
            while report.is_none() || !ends.iter().any(is_draining) {
                tokio::select! {
                    drained = &mut drain, if report.is_none() => report = Some(drained.unwrap()),
                    end = &mut one, if ends[0].is_none() => ends[0] = Some(end),
                    end = &mut other, if ends[1].is_none() => ends[1] = Some(end),
                    else => panic!("{form}: no peer was closed with 4000: {ends:?}"),
                }
            }
            assert_eq!(report.unwrap().left, 0);
            // Shorter than the timeout of a message to another node.
            assert!(began.elapsed() < Duration::from_secs(8), "the last message had to wait");
        }
    }
}

/// How the connection ends.
async fn end(peer: &mut Ws) -> Received {
    loop {
        match peer.receive().await {
            Received::Text(_) | Received::Binary(_) => {}
            end => return end,
        }
    }
}

/// Messages of both peers during a restart of Redis arrive once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restart_loses_no_message() {
    let server = RedisServer::start(true);
    let engine = engine(&server);
    let server = Arc::new(Mutex::new(server));
    let env = TestEnv::start_nodes(2, &format!("{PAIR}{engine}"), server.clone()).await;
    for form in FORMS {
        let (mut a, mut b) = pair(&env, form).await;
        for n in 0..300 {
            if n == 100 {
                server.lock().kill();
            }
            if n == 200 {
                server.lock().restart();
            }
            a.send_text(&encode(form, &format!("a{n}"))).await;
            b.send_text(&encode(form, &format!("b{n}"))).await;
        }
        for n in 0..300 {
            assert_eq!(decode(form, &b.text().await), format!("a{n}"), "{form}");
            assert_eq!(decode(form, &a.text().await), format!("b{n}"), "{form}");
        }
        for node in env.nodes() {
            eventually("readiness", async || (get(node.address("ops"), "/readyz").await.status == 200).then_some(()))
                .await;
        }
    }
}

/// The real program, for what only `kill -9` shows.
struct Process {
    gateway: ChildGateway,
    _folder: TempDir,
}

impl Process {
    /// `rooms` continues the table of rooms.
    fn start(rooms: &str, engine: &str) -> Self {
        let folder = TempDir::new();
        let key = TestPublisher::new().toml("unused", &["*"]);
        folder.write("lastmile.toml", &format!("{PAIR}{rooms}\n{key}\n[log]\nformat = \"json\"\n{engine}"));
        let gateway = ChildGateway::start(child::serve(env!("CARGO_BIN_EXE_lastmile"), &folder), &folder);
        gateway.await_log("connected to redis");
        Self { gateway, _folder: folder }
    }

    async fn open(&self, path: &str) -> Ws {
        Ws::connect(self.gateway.address("pair"), path, &[]).await.expect("an upgrade")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_frees_seats_and_ends_rooms() {
    let server = RedisServer::start(true);
    let engine = engine(&server);
    let [owner, other, third] = [(); 3].map(|()| Process::start("", &engine));
    let mut here = owner.open("/v1/relay/room").await;
    here.expect_texts(&["/status:waiting"]).await;
    let mut afar = other.open("/v1/relay/room").await;
    afar.expect_texts(&["/status:connected"]).await;
    here.expect_texts(&["/remote:open", "/status:connected"]).await;
    let mut stays = other.open("/v1/relay/second").await;
    stays.expect_texts(&["/status:waiting"]).await;
    let mut lost = owner.open("/v1/relay/second").await;
    lost.expect_texts(&["/status:connected"]).await;
    stays.expect_texts(&["/remote:open", "/status:connected"]).await;

    let began = Instant::now();
    drop(owner);
    // The room was there: to be opened anew, anywhere.
    afar.expect_close(4005, "engine_unavailable").await;
    // The room is here, and the peer who was connected there has left.
    stays.expect_texts(&["/remote:close", "/status:waiting"]).await;
    let mut again = third.open("/v1/relay/room").await;
    again.expect_texts(&["/status:waiting"]).await;
    let mut back = other.open("/v1/relay/room").await;
    back.expect_texts(&["/status:connected"]).await;
    // And as much again for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Far more than queues and outboxes hold goes to a peer who begins to read late: its sender waits, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_reader_gets_everything() {
    let env = start_nodes(2, PAIR).await;
    for is_afar_late in [true, false] {
        // The room is on the node of the first.
        let (here, afar) = pair(&env, "relay").await;
        let (mut sender, mut late) = if is_afar_late { (here, afar) } else { (afar, here) };
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let flood = tokio::spawn(async move {
            for n in 0..400 {
                sender.send_text(&format!("{n:060000}")).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            sender
        });
        // Until nothing moves any more.
        let mut before = usize::MAX;
        while before != sent.load(Ordering::Relaxed) {
            before = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        assert!(before < 400, "the sender did not have to wait");
        for n in 0..400 {
            assert_eq!(late.text().await, format!("{n:060000}"));
        }
        drop(flood.await.unwrap());
    }
}

/// How many rooms one address may have; every peer here has the same one.
const THREE: &str = "max_rooms_per_address = 3\n";

/// Opens a room of the form, unless that is refused.
async fn opened(env: &TestEnv, form: &str, id: &str) -> Option<Ws> {
    let mut peer = match form {
        "channelserver" => open(env, "/v1/ws/").await,
        "relay" => open(env, &format!("/v1/relay/{id}")).await,
        _ => {
            let mut peer = open_native(env, "/v1/rooms").await;
            peer.send(json!({"type": "open"})).await;
            peer
        }
    };
    match peer.receive().await {
        Received::Close(4004, _) => None,
        Received::Text(refused) if refused.contains(r#""type":"error""#) => {
            peer.expect_close(4004, "rate_limited").await;
            None
        }
        Received::Text(_) => Some(peer),
        other => panic!("{other:?}"),
    }
}

/// Ends a room. Of our own form it would wait for peers to come back.
async fn end_room(mut peer: Ws) {
    peer.send_text(r#"{"type":"end"}"#).await;
    peer.close(1000, "").await;
    end(&mut peer).await;
}

/// Ten from one address at once, on both nodes.
async fn ten(env: &TestEnv, round: usize) -> Vec<Ws> {
    let open = |n: usize| async move { opened(env, FORMS[n % 3], &format!("{round}-{n}")).await };
    futures_util::future::join_all((0..10).map(open)).await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_quota_spans_nodes() {
    let env = start_nodes(2, &format!("{PAIR}{THREE}")).await;
    let mut peers = ten(&env, 0).await;
    assert_eq!(peers.len(), 3);
    for round in 1..50 {
        // The slot of an ended room is released soon, on any node.
        eventually("three rooms", async || {
            futures_util::future::join_all(peers.drain(..).map(end_room)).await;
            peers = ten(&env, round).await;
            assert!(peers.len() <= 3, "{} rooms", peers.len());
            (peers.len() == 3).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_quota_still_allows_joining() {
    let env = start_nodes(2, &format!("{PAIR}{THREE}")).await;
    let (link, _first) = channel(&env).await;
    let room = open_room(&env, json!({})).await;
    let mut waiter = open(&env, "/v1/relay/x").await;
    waiter.expect_texts(&["/status:waiting"]).await;
    for _ in env.nodes() {
        assert!(opened(&env, "relay", "y").await.is_none());
    }
    // From both nodes each time.
    for _ in 0..2 {
        assert!(matches!(open(&env, &link).await.receive().await, Received::Text(_)));
        env.next_address("pair");
        join(&env, &room).await.0.close(1000, "").await;
        env.next_address("pair");
        let mut peer = open(&env, "/v1/relay/x").await;
        peer.expect_texts(&["/status:connected"]).await;
        waiter.expect_texts(&["/remote:open", "/status:connected"]).await;
        drop(peer);
        waiter.expect_texts(&["/remote:close", "/status:waiting"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_releases_room_quota() {
    let server = RedisServer::start(true);
    let engine = engine(&server);
    let [killed, other] = [(); 2].map(|()| Process::start(THREE, &engine));
    let mut peers = Vec::new();
    for (node, id) in [(&killed, "a"), (&killed, "b"), (&other, "c")] {
        let mut peer = node.open(&format!("/v1/relay/{id}")).await;
        peer.expect_texts(&["/status:waiting"]).await;
        peers.push(peer);
    }
    other.open("/v1/relay/d").await.expect_close(4004, "rate_limited").await;
    drop(killed);
    for id in ["d", "e"] {
        peers.push(
            eventually("a free place", async || {
                let mut peer = other.open(&format!("/v1/relay/{id}")).await;
                (peer.receive().await == Received::Text("/status:waiting".to_owned())).then_some(peer)
            })
            .await,
        );
    }
    other.open("/v1/relay/f").await.expect_close(4004, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_is_rebuilt_after_redis_loss() {
    let server = RedisServer::start(false);
    let engine = engine(&server);
    let server = Arc::new(Mutex::new(server));
    let env = TestEnv::start_nodes(2, &format!("{PAIR}{THREE}{engine}"), server.clone()).await;
    let [here, other] = [&env.gateway, &env.others[0]].map(|node| node.address("pair"));
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Ws::connect(here, "/v1/ws/", &[]).await.unwrap();
        peer.text().await;
        peers.push(peer);
    }
    server.lock().kill();
    for form in ["relay", "channelserver"] {
        let path = if form == "relay" { "/v1/relay/x" } else { "/v1/ws/" };
        open(&env, path).await.expect_close(4005, "engine_unavailable").await;
    }
    server.lock().restart();
    for node in env.nodes() {
        eventually("readiness", async || (get(node.address("ops"), "/readyz").await.status == 200).then_some(())).await;
    }
    // Until this node has reported its room, another node may still accept one.
    eventually("a refusal", async || {
        let refused = Received::Close(4004, "rate_limited".to_owned());
        (Ws::connect(other, "/v1/ws/", &[]).await.unwrap().receive().await == refused).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_peer_counts_once() {
    let server = RedisServer::start(true);
    let redis = RedisConfig {
        urls: vec![server.url()],
        kind: RedisKind::Single,
        prefix: "lastmile".to_owned(),
        authorities: None,
        password: None,
        cluster_key: Vec::new(),
        unauthenticated: Unauthenticated::Refuse,
    };
    let engine = engine(&server);
    let env = TestEnv::start_nodes(2, &format!("{PAIR}{engine}"), server).await;
    // Each of five rooms is on the node of its first peer, and its second one is on the other node.
    let mut peers = Vec::new();
    for n in 0..5 {
        for (node, status) in [(&env.gateway, "/status:waiting"), (&env.others[0], "/status:connected")] {
            let path = format!("/v1/relay/{n}");
            let mut peer = Ws::connect(node.address("pair"), &path, &[]).await.unwrap();
            peer.expect_texts(&[status]).await;
            peers.push(peer);
        }
    }
    env.await_metric("lastmile_carried_peers", 5.0).await;
    eventually("all connections, once each", async || {
        let nodes = nodes(&redis).await.unwrap();
        let connections = nodes.iter().map(|(_, about)| serde_json::from_slice::<Value>(about).unwrap());
        let connections: Vec<_> = connections.map(|about| about["connections"].as_u64().unwrap_or_default()).collect();
        (connections == [5, 5]).then_some(())
    })
    .await;
}
