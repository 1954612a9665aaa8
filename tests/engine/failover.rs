//! The ways to a Redis beside plain TCP: TLS with authorities of its own, and Sentinels that name another master.

use lastmile::broker::Engine;
use lastmile::broker::engine::Start;
use lastmile::engine::{Redis, RedisKind};
use test_support::{RedisServer, TempDir, eventually, free_port};

use crate::nodes::{Node, expect};
use crate::support::{LIMITS, Subscriber, parts, publish, redis_config, rule, start_redis};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_tls_needs_its_authority() {
    let (folder, port) = (TempDir::new(), free_port().to_string());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate];
    let _server = RedisServer::with(&[&["--tls-port", &port, "--tls-auth-clients", "no"], &files[..]].concat());
    let url = format!("rediss://localhost:{port}");
    let mut config = redis_config(&[&url], RedisKind::Single);

    let (rules, hub, counters) = parts(&rule());
    let stranger = Redis::start(config.clone(), LIMITS, rules, hub, counters, &Default::default()).unwrap();
    config.authorities = Some(made.cert.pem().into_bytes());
    let node = Node::new(start_redis(config, &rule(), LIMITS));
    let subscriber = node.join("c", Start::Live);
    node.publish("c", "x").await;
    expect(&subscriber, 1..=1).await;
    assert_eq!(stranger.unavailable_reason(), Some("engine-unavailable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_is_followed() {
    let mut master = RedisServer::start(false);
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinel = RedisServer::sentinel(&master);
    eventually("the replica", async || {
        let known = sentinel.command("SENTINEL MASTER m")?.contains("num-slaves\r\n$1\r\n1");
        (known && replica.command("INFO replication")?.contains("master_link_status:up")).then_some(())
    })
    .await;
    let config = redis_config(&[&sentinel.url()], RedisKind::Sentinel("m".to_owned()));
    let nodes = [(); 2].map(|()| Node::new(start_redis(config.clone(), &rule(), LIMITS)));
    let subscribers = nodes.each_ref().map(|node| node.join("c", Start::Live));
    let before = nodes[0].publish("c", "x").await;
    for subscriber in &subscribers {
        expect(subscriber, 1..=1).await;
    }

    master.kill();
    // The state of the replica is unknown, so a new epoch begins, and all subscribers are sent it.
    for (subscriber, node) in subscribers.iter().zip(&nodes) {
        eventually("the word", async || {
            subscriber.frames().last().filter(|frame| frame["reason"] == "engine_unavailable").map(|_| ())
        })
        .await;
        let back =
            eventually("a place", async || Subscriber::join(&*node.engine, "c", Start::Since(before.clone())).ok());
        let back = back.await;
        assert!(!back.recovered);
        let after = eventually("an acknowledgement", async || publish(&*node.engine, "c", "y").await.ok()).await;
        assert_ne!(after.epoch, before.epoch);
        eventually("its delivery", async || back.offsets().contains(&after.offset).then_some(())).await;
    }
}
