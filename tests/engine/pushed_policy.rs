//! Rules and keys that are pushed to one gateway hold on all that share a Redis, also on those that begin later.

use serde_json::{Value, json};
use test_support::gateway::{ISSUER, TestGateway};
use test_support::http::{Answer, send};
use test_support::{RedisServer, TempDir, TestIssuer, Ws, eventually};

use crate::gateways::Pair;

const CHANNELS: &str = "/v1/control/channels";

async fn pair(server: &RedisServer) -> Pair {
    Pair::start(&format!("url = \"{}\"", server.url())).await
}

pub async fn control(pair: &Pair, gateway: &TestGateway, method: &str, path: &str, body: Option<Value>) -> Answer {
    send(gateway.address("publish"), pair.signed(method, path, body.as_ref())).await
}

/// The `source` of the rules in force, and the first pattern.
pub async fn in_force(pair: &Pair, gateway: &TestGateway) -> (String, String) {
    let answer = control(pair, gateway, "GET", CHANNELS, None).await.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&answer["source"]), text(&answer["rules"]["channels"][0]["match"]))
}

pub async fn holds(pair: &Pair, gateway: &TestGateway, source: &str, pattern: &str) {
    let wanted = (source.to_owned(), pattern.to_owned());
    eventually(&format!("{wanted:?}"), async || (in_force(pair, gateway).await == wanted).then_some(())).await;
}

pub fn rules(pattern: &str) -> Option<Value> {
    Some(json!({"channels": [{"match": pattern, "subscribers": {"group": "staff"}}]}))
}

pub fn jwks_path() -> String {
    format!("/v1/control/jwks/{}", ISSUER.replace(':', "%3A").replace('/', "%2F"))
}

pub async fn is_welcome(gateway: &TestGateway, issuer: &TestIssuer) -> bool {
    let headers = [("sec-websocket-protocol", "lastmile.v1")];
    let request = Ws::request(&gateway.authority("public"), "/v1/subscribe", &headers);
    let mut ws = Ws::open(gateway.address("public"), request).await.expect("an upgrade");
    ws.send(json!({"type": "hello", "token": issuer.token("alice")})).await;
    ws.next().await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_rules_apply_and_revert_on_all_nodes() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let mut alice = pair.subscriber(1).await;
    alice.subscribe("c").await;
    assert_eq!(control(&pair, &pair.gateways[0], "PUT", CHANNELS, rules("c")).await.status, 204);
    assert_eq!(in_force(&pair, &pair.gateways[0]).await, ("pushed".into(), "c".into()), "at once on the pushed node");
    assert_eq!(alice.expect("unsubscribed").await["reason"], "forbidden");
    holds(&pair, &pair.gateways[1], "pushed", "c").await;
    let folder = TempDir::new();
    let third = pair.another(&folder).await;
    holds(&pair, &third, "pushed", "c").await;

    // An invalid push changes nothing on any node.
    let wrong = Some(json!({"channels": [{"macth": "x"}]}));
    assert_eq!(control(&pair, &third, "PUT", CHANNELS, wrong).await.refusal(), (400, "malformed".into()));
    assert_eq!(control(&pair, &third, "PUT", CHANNELS, rules("d")).await.status, 204);
    for gateway in &pair.gateways {
        holds(&pair, gateway, "pushed", "d").await;
    }
    assert_eq!(control(&pair, &pair.gateways[1], "DELETE", CHANNELS, None).await.status, 204);
    for gateway in [&pair.gateways[0], &pair.gateways[1], &third] {
        holds(&pair, gateway, "files", "").await;
    }
    let mut alice = pair.subscriber(0).await;
    alice.subscribe("c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pushes_converge() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    for round in 0..30 {
        let pushes = [0, 1].map(|node| {
            let pattern = format!("r{round}-{node}");
            let pair = &pair;
            async move { control(pair, &pair.gateways[node], "PUT", CHANNELS, rules(&pattern)).await.status }
        });
        let statuses = futures_util::future::join_all(pushes).await;
        assert!(statuses.iter().all(|status| *status == 204));
        // The last word of the memory that they share: each asks it every half a second.
        eventually("the same rules", async || {
            let [one, two] = [in_force(&pair, &pair.gateways[0]).await, in_force(&pair, &pair.gateways[1]).await];
            (one == two).then_some(())
        })
        .await;
        let settled = in_force(&pair, &pair.gateways[0]).await;
        if round % 10 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
            for gateway in &pair.gateways {
                assert_eq!(in_force(&pair, gateway).await, settled, "and they stay");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_keys_apply_on_all_nodes() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let next = TestIssuer::new(ISSUER);
    assert!(!is_welcome(&pair.gateways[1], &next).await);
    let keys = serde_json::from_str(&next.jwks()).unwrap();
    assert_eq!(control(&pair, &pair.gateways[0], "PUT", &jwks_path(), Some(keys)).await.status, 204);
    assert!(is_welcome(&pair.gateways[0], &next).await, "at once on the pushed node");
    let folder = TempDir::new();
    let third = pair.another(&folder).await;
    for gateway in [&pair.gateways[1], &third] {
        eventually("the keys", async || is_welcome(gateway, &next).await.then_some(())).await;
        assert!(!is_welcome(gateway, &pair.issuer).await);
    }
    // Another file is another beginning, also for a node that begins with it.
    let newest = TestIssuer::new(ISSUER);
    folder.write("sso.json", &newest.jwks());
    third.reload(&pair.toml, &folder).unwrap();
    let own = TempDir::new();
    own.write("sso.json", &newest.jwks());
    let fourth = TestGateway::start(&pair.toml, &own).await;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    for gateway in [&third, &fourth] {
        assert!(is_welcome(gateway, &newest).await && !is_welcome(gateway, &next).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_policy_is_restored_after_redis_loss() {
    let mut server = RedisServer::start(false);
    let pair = pair(&server).await;
    assert_eq!(control(&pair, &pair.gateways[0], "PUT", CHANNELS, rules("c")).await.status, 204);
    holds(&pair, &pair.gateways[1], "pushed", "c").await;
    server.kill();
    for gateway in &pair.gateways {
        eventually("the end of the way", async || {
            let refused = control(&pair, gateway, "PUT", CHANNELS, rules("d")).await;
            (refused.refusal() == (503, "engine-unavailable".into())).then_some(())
        })
        .await;
    }
    server.restart();
    eventually("its memory", async || server.command("EXISTS lastmile:once:pushed:tag")?.contains(":1").then_some(()))
        .await;
    let folder = TempDir::new();
    let third = pair.another(&folder).await;
    holds(&pair, &third, "pushed", "c").await;
    for gateway in &pair.gateways {
        assert_eq!(in_force(&pair, gateway).await, ("pushed".into(), "c".into()), "what was refused is nowhere");
    }
}
