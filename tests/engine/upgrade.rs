//! A rolling upgrade to a cluster key: nodes of the previous release, and of each step, share one Redis.

use redis::Commands;
use redis::streams::StreamRangeReply;
use serde_json::json;
use test_support::RedisServer;
use test_support::http::send;

use crate::gateways::{Pair, ticket};
use crate::pushed_policy::{control, holds, rules};

/// A gateway without a key writes and reads as the previous release does.
const PREVIOUS: &str = "";
const WRITE: &str = "cluster_key = \"cluster.key\"\nunauthenticated = \"write\"";
const ACCEPT: &str = "cluster_key = \"cluster.key\"\nunauthenticated = \"accept\"";
const REFUSE: &str = "cluster_key = \"cluster.key\"";

async fn pair(server: &RedisServer, steps: [&str; 2]) -> Pair {
    let engine =
        |step| format!("url = \"{}\"\n{step}\n[[channels]]\nmatch = \"support\"\nreplies = true\n", server.url());
    let [one, two] = steps.map(engine);
    Pair::with([&one, &two]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_an_upgrade_serves_both_releases() {
    for (steps, is_authenticated) in [
        ([PREVIOUS, WRITE], false),
        ([WRITE, WRITE], false),
        ([ACCEPT, WRITE], true),
        ([ACCEPT, ACCEPT], true),
        ([ACCEPT, REFUSE], true),
    ] {
        let server = RedisServer::start(false);
        let pair = pair(&server, steps).await;
        let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let mut subscribers = [pair.subscriber(0).await, pair.subscriber(1).await];
        for ws in &mut subscribers {
            ws.subscribe("c").await;
        }
        for n in 1..=4u64 {
            let answer = send(pair.publish_address(n as usize % 2), pair.request(n.to_string().as_bytes())).await;
            assert_eq!((answer.status.as_u16(), answer.json()["offset"].as_u64()), (200, Some(n)), "{steps:?}");
        }
        for ws in &mut subscribers {
            for n in 1..=4u64 {
                assert_eq!(ws.expect("message").await["data"], n, "{steps:?}");
            }
        }
        // The ticket of the first node, at the second.
        let ticket = ticket(&pair).await;
        let stored: Vec<Vec<u8>> = redis::cmd("MGET")
            .arg(redis.keys::<_, Vec<String>>("lastmile:once:ticket:*").unwrap())
            .query(&mut redis)
            .unwrap();
        assert_eq!(stored[0][0] != b'{', is_authenticated, "{steps:?}");
        let (other, path) = (&pair.gateways[1], format!("/v1/subscribe?ticket={ticket}"));
        let headers = [("sec-websocket-protocol", "lastmile.v1")];
        assert!(test_support::Ws::connect(other.address("public"), &path, &headers).await.is_ok(), "{steps:?}");
        // A reply and its confirmation cross the nodes.
        let (mut publisher, mut alice) = (pair.publisher_ws(1).await, pair.subscriber(0).await);
        alice.subscribe("support").await;
        publisher.send(json!({"type": "publish", "id": "1", "channel": "support", "data": 1})).await;
        publisher.expect("published").await;
        let message = alice.expect("message").await["message_id"].clone();
        alice.send(json!({"type": "reply", "id": "5", "channel": "support", "to": message, "data": 2})).await;
        let reply = publisher.expect("reply").await["reply"].clone();
        publisher.send(json!({"type": "received", "reply": reply})).await;
        alice.expect("replied").await;
        // Rules that either of them pushes hold on both.
        for (node, pattern) in [(0, "x"), (1, "y"), (0, "z")] {
            let pushed = control(&pair, &pair.gateways[node], "PUT", "/v1/control/channels", rules(pattern)).await;
            assert_eq!(pushed.status, 204, "{steps:?}");
            for gateway in &pair.gateways {
                holds(&pair, gateway, "pushed", pattern).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_step_writes_as_previous_release() {
    let server = RedisServer::start(false);
    let pair = pair(&server, [WRITE, PREVIOUS]).await;
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    assert_eq!(send(pair.publish_address(0), pair.request(b"1")).await.status, 200);
    let entries: StreamRangeReply = redis.xrange_all("lastmile:{/c}:log").unwrap();
    let publication: String = entries.ids[0].get("p").unwrap();
    assert!(publication.starts_with("p ") && publication.ends_with(" j 11 market-data 1"), "{publication}");
    let pushed = control(&pair, &pair.gateways[0], "PUT", "/v1/control/channels", rules("x")).await;
    assert_eq!(pushed.status, 204);
    let stored: String = redis.get("lastmile:once:pushed:channels").unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stored).ok(), rules("x"));
    let nodes: Vec<String> = redis.hkeys("lastmile:nodes").unwrap();
    let status: String = redis.get(format!("lastmile:node:{}", nodes[0])).unwrap();
    assert!(status.starts_with('{'));
}
