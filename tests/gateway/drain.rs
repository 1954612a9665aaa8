//! The drain: every connection is closed with a code, and none is left.

use std::time::{Duration, Instant};

use test_support::TestEnv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_sockets_are_sent_draining() {
    let env = TestEnv::start("[drain]\nwindow_secs = 3\ndeadline_secs = 40\n").await;
    let mut sockets = Vec::new();
    for n in 0..200 {
        let mut ws = env.subscriber().await;
        if n % 2 == 0 {
            ws.subscribe("c").await;
        }
        sockets.push(ws);
    }
    let mut publisher = env.publisher_ws().await;
    let began = Instant::now();
    let drain = env.gateway.shut_down();
    let clients: Vec<_> = sockets
        .into_iter()
        .map(|mut ws| {
            tokio::spawn(async move {
                ws.expect_close(4000, "draining").await;
                began.elapsed()
            })
        })
        .collect();
    publisher.expect_close(4000, "draining").await;
    let mut ends = Vec::new();
    for client in clients {
        ends.push(client.await.unwrap());
    }
    let report = test_support::with_timeout("the drain", drain).await.unwrap();
    assert_eq!((report.closed, report.left), (201, 0));
    // Spread over the window: neither all at once, nor late.
    ends.sort();
    assert!(ends[199] - ends[0] >= Duration::from_millis(500), "{:?} to {:?}", ends[0], ends[199]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_client_does_not_block_drain() {
    let env = TestEnv::start("[drain]\nwindow_secs = 0\ndeadline_secs = 1\n").await;
    // It never reads, and so never answers the Close.
    let _silent = env.subscriber().await;
    let began = Instant::now();
    let report = env.gateway.stop().await;
    assert_eq!((report.closed, report.left), (1, 1));
    // Far less than the silence for which it would be ended anyway.
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_gateway_stops_at_once() {
    let env = TestEnv::start("[drain]\nwindow_secs = 60\ndeadline_secs = 90\n").await;
    env.publish("c", "1").await;
    let began = Instant::now();
    let report = env.gateway.stop().await;
    assert_eq!((report.closed, report.left), (0, 0));
    assert!(began.elapsed() < Duration::from_secs(30));
}
