//! Many who come at once, and rooms that come and go.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use test_support::{Received, TestEnv, Ws};

use crate::client::{channel, env, open, open_native, open_room};

const JOINERS: usize = 200;

/// Does something for each, as many at once as may be, and gives what came of it in the same order.
async fn all_at_once<T, F>(each: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (mut each, mut done) = (each.into_iter().peekable(), Vec::new());
    while each.peek().is_some() {
        let tasks: Vec<_> = each.by_ref().take(crate::MAX_CONCURRENT_JOINS).map(tokio::spawn).collect();
        for task in tasks {
            done.push(task.await.unwrap());
        }
    }
    done
}

async fn open_all(env: &Arc<TestEnv>, path: &str, protocol: bool) -> Vec<Ws> {
    all_at_once((0..JOINERS).map(|_| {
        let (env, path) = (env.clone(), path.to_owned());
        async move { if protocol { open_native(&env, &path).await } else { open(&env, &path).await } }
    }))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_joiners_form_pairs() {
    let env = Arc::new(env("").await);
    let mut peers = open_all(&env, "/v1/relay/one", false).await;
    env.await_metric("lastmile_rooms", (JOINERS / 2) as f64).await;
    for (n, peer) in peers.iter_mut().enumerate() {
        match peer.text().await.as_str() {
            "/status:connected" => {}
            "/status:waiting" => peer.expect_texts(&["/remote:open", "/status:connected"]).await,
            other => panic!("{other}"),
        }
        peer.send_text(&n.to_string()).await;
    }
    // Each peer receives the message of exactly one other, its partner.
    let mut partners = Vec::new();
    for peer in &mut peers {
        partners.push(peer.text().await.parse::<usize>().unwrap());
    }
    for (n, partner) in partners.iter().enumerate() {
        assert!(*partner != n && partners[*partner] == n, "{n} and {partner}");
    }
    for peer in &mut peers {
        let more = tokio::time::timeout(Duration::from_millis(1), peer.receive()).await;
        assert!(more.is_err(), "a third message: {more:?}");
    }
    drop(peers);
    env.await_metric("lastmile_rooms", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_admits_its_limit() {
    let env = Arc::new(env("max_connections = 2").await);
    let (link, mut first) = channel(&env).await;
    let mut peers = open_all(&env, &link, false).await;
    let mut inside = Vec::new();
    for mut peer in peers.drain(..) {
        match peer.receive().await {
            Received::Text(_) => inside.push(peer),
            Received::Close(4508, _) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(inside.len(), 1);
    first.send_text("x").await;
    assert_eq!(inside[0].json().await["message"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_of_two_admits_two() {
    // All are connected before the first one sends its command.
    let env = Arc::new(env("[limits]\nhello_secs = 300\n").await);
    let room = open_room(&env, json!({})).await;
    let peers = open_all(&env, room["link"].as_str().unwrap(), true).await;
    let claims = peers.into_iter().map(|mut peer| {
        let secret = room["join_secret"].clone();
        async move {
            peer.send(json!({"type": "join", "secret": secret})).await;
            match peer.receive().await {
                Received::Text(joined) => Some((peer, joined)),
                Received::Close(4508, _) => None,
                other => panic!("{other:?}"),
            }
        }
    });
    let inside: Vec<_> = all_at_once(claims).await.into_iter().flatten().collect();
    assert_eq!(inside.len(), 2);
    assert!(inside.iter().all(|(_, joined)| joined.contains(r#""type":"joined""#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_rooms_are_removed() {
    let env = Arc::new(env("").await);
    for _ in 0..3 {
        let mut peers = open_all(&env, "/v1/ws/", false).await;
        for peer in &mut peers {
            peer.text().await;
        }
        assert_eq!(env.metric("lastmile_rooms").await, JOINERS as f64);
        drop(peers);
        env.await_metric("lastmile_rooms", 0.0).await;
        env.await_metric("lastmile_connections", 0.0).await;
    }
    assert_eq!(env.metric(r#"lastmile_rooms_closed_total{reason="left"}"#).await, 3.0 * JOINERS as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_reaches_every_peer() {
    let env = env("").await;
    let (_, mut peer) = channel(&env).await;
    let drain = env.gateway.shut_down();
    peer.expect_close(4000, "draining").await;
    drain.await.unwrap();
}
