//! Health, readiness, metrics, roles, and what every answer carries.

use ::http::Request;
use bytes::Bytes;
use serde_json::json;

use crate::common::{World, Ws, get, http};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_is_live_and_ready() {
    let world = World::start("").await;
    let ops = world.gateway.address("ops");
    let live = get(ops, "/healthz").await;
    assert_eq!((live.status.as_u16(), live.text()), (200, "ok\n"));
    assert_eq!(get(ops, "/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_gateway_is_live_and_not_ready() {
    let world = World::start("[drain]\nwindow_secs = 5\ndeadline_secs = 10\n").await;
    // Two, so that the second one's close is half a window away.
    let (_first, _second) = (world.subscriber().await, world.subscriber().await);
    let ops = world.gateway.address("ops").clone();
    let io = http::connect(&ops).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = || {
        let body = http_body_util::Full::new(Bytes::new());
        Request::get("/readyz").header("host", ops.to_string()).body(body).unwrap()
    };
    // On a connection that was open before; new ones are not accepted any more.
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    let public = world.gateway.address("public").clone();
    let stopped = world.gateway.shut_down();
    let answer = crate::common::eventually("the drain", async || match sender.send_request(request()).await {
        Ok(answer) if answer.status() == 200 => None,
        answer => Some(answer),
    })
    .await;
    assert_eq!(answer.expect("an answer while draining").status(), 503);
    assert!(tokio::net::TcpStream::connect(public.to_string()).await.is_err());
    stopped.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_move() {
    let world = World::start("").await;
    let mut alice = world.subscriber().await;
    alice.subscribe("a").await;
    alice.subscribe("b").await;
    let mut bob = world.subscriber().await;
    bob.subscribe("a").await;
    world.publish("a", "1").await;
    world.publish("b", "1").await;
    alice.expect("message").await;
    alice.expect("message").await;
    bob.expect("message").await;
    for (name, value) in [
        ("lastmile_connections", 2.0),
        ("lastmile_connections_total", 2.0),
        ("lastmile_publications_total", 2.0),
        ("lastmile_deliveries_total", 3.0),
        ("lastmile_slow_consumers_total", 0.0),
        ("lastmile_channels", 2.0),
        ("lastmile_subscriptions", 3.0),
    ] {
        world.await_metric(name, value).await;
    }
    assert_eq!(world.post("a", "application/json", b"{").await.status, 400);
    world.await_metric("lastmile_refusals_total{type=\"malformed\"}", 1.0).await;
    bob.close(1000, "").await;
    drop(alice);
    world.await_metric("lastmile_connections", 0.0).await;
    world.await_metric("lastmile_subscriptions", 0.0).await;
    world.await_metric("lastmile_closes_total{reason=\"normal\"}", 2.0).await;

    let answer = get(world.gateway.address("ops"), "/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(answer.text().contains("# TYPE lastmile_publications_total counter"));
    assert!(!answer.text().contains("alice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_a_listener_without_the_role_knows_nothing_of_it() {
    let world = World::start("").await;
    let not_found = (404, "not-found".to_owned());
    for path in ["/healthz", "/readyz", "/metrics", "/v1/publish", "/v1/channels/c", "/nowhere", "/"] {
        assert_eq!(get(world.gateway.address("public"), path).await.refusal(), not_found, "{path}");
    }
    for path in ["/healthz", "/metrics", "/v1/subscribe", "/v1", "/v1/channels", "/v1/channels/c/messages/x"] {
        assert_eq!(get(world.gateway.address("publish"), path).await.refusal(), not_found, "{path}");
    }
    for path in ["/v1/subscribe", "/v1/publish", "/v1/channels/c"] {
        assert_eq!(get(world.gateway.address("ops"), path).await.refusal(), not_found, "{path}");
    }
    let request = Ws::request(&world.gateway.authority("publish"), "/v1/subscribe", &[]);
    let refused = Ws::open(world.gateway.address("publish"), request).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), not_found);
    let signed = world.publisher.request(&world.gateway.authority("public"), "GET", "/v1/channels/c", None);
    assert_eq!(http::send(world.gateway.address("public"), signed).await.refusal(), not_found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_a_method_that_a_path_does_not_know_is_refused() {
    let world = World::start("").await;
    for (listener, method, path) in [
        ("ops", "POST", "/healthz"),
        ("public", "POST", "/v1/subscribe"),
        ("publish", "PATCH", "/v1/channels/c"),
        ("publish", "GET", "/v1/channels/c/messages"),
        ("publish", "TRACE", "/v1/channels/c"),
        ("publish", "POST", "/v1/publish"),
    ] {
        let address = world.gateway.address(listener);
        let request = Request::builder().method(method).uri(path).header("host", address.to_string());
        let answer = http::send(address, request.body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.refusal(), (405, "method-not-allowed".into()), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_every_answer_carries_the_security_headers() {
    let world = World::start("").await;
    for (listener, path) in [("ops", "/healthz"), ("public", "/nowhere"), ("publish", "/v1/channels/c")] {
        let answer = get(world.gateway.address(listener), path).await;
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("server"), "", "no version banner");
        assert_eq!(answer.header("strict-transport-security"), "", "not without TLS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_type_of_a_problem_is_a_page_of_the_gateway() {
    let world = World::start("").await;
    let answer = get(world.gateway.address("publish"), "/v1/channels/c").await;
    let problem = answer.json();
    assert_eq!(problem["type"], "/problems/signature-missing");
    let page = get(world.gateway.address("publish"), problem["type"].as_str().unwrap()).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("401"), "{page:?}");
    assert_eq!(get(world.gateway.address("public"), "/problems/nonsense").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_a_listener_like_any_other() {
    let folder = crate::common::gateway::Folder::new();
    let path = folder.path().join("gateway.sock");
    let listener =
        format!("[listeners.unix]\naddress = \"unix:{}\"\nroles = [\"subscribe\", \"publish\"]\n", path.display());
    let world = World::start(&listener).await;
    let address = world.gateway.address("unix").clone();
    let mut alice = Ws::open(&address, Ws::request("localhost", "/v1/subscribe", &[])).await.expect("an upgrade");
    alice.hello(Some(&world.issuer.token("alice"))).await;
    alice.subscribe("c").await;
    let body = Some(("application/json", b"1".as_slice()));
    let request = world.publisher.request("localhost", "POST", "/v1/channels/c/messages", body);
    assert_eq!(http::send(&address, request).await.status, 200);
    assert_eq!(alice.expect("message").await["data"], 1);
    // What comes over TCP reaches it as well.
    world.publish("c", "2").await;
    assert_eq!(alice.expect("message").await["data"], json!(2));
    alice.close(1000, "").await;
    world.gateway.stop().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_lim_connections_over_a_listeners_limit_are_turned_away_and_room_is_given_back() {
    let listener = "[listeners.narrow]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\nmax_connections = 2\n";
    let world = World::start(listener).await;
    let (address, authority) = (world.gateway.address("narrow"), world.gateway.authority("narrow"));
    let open = async || Ws::open(address, Ws::request(&authority, "/v1/subscribe", &[])).await;
    let first = open().await.expect("an upgrade");
    let _second = open().await.expect("an upgrade");
    let refused = open().await.err().expect("a refusal");
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "5"));
    drop(first);
    crate::common::eventually("room", async || open().await.ok()).await;
}
