//! Health, readiness, metrics, roles, and what every answer carries.

use ::http::Request;
use bytes::Bytes;
use lastmile::transport::config::Address;
use serde_json::json;
use test_support::{TestEnv, Ws, get, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_gateway_is_live_and_ready() {
    let env = TestEnv::start("").await;
    let ops = env.gateway.address("ops");
    let live = get(ops, "/healthz").await;
    assert_eq!((live.status.as_u16(), live.text()), (200, "ok\n"));
    assert_eq!(get(ops, "/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_gateway_is_live_not_ready() {
    let mixed = "[listeners.mixed]\naddress = \"127.0.0.1:0\"\nroles = [\"ops\", \"subscribe\"]\n";
    let env =
        TestEnv::start(&format!("{mixed}[limits]\nclose_secs = 60\n[drain]\nwindow_secs = 1\ndeadline_secs = 25\n"))
            .await;
    // Two, so that the second one's close is half a window away.
    let (mut first, _second) = (env.subscriber().await, env.subscriber().await);
    let [ops, mixed, public] = ["ops", "mixed", "public"].map(|name| env.gateway.address(name).clone());
    let authority = mixed.to_string();
    let stopped = env.gateway.shut_down();
    first.expect_close(4000, "draining").await;

    let ready = get(&ops, "/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.text()), (503, "draining\n"));
    assert_eq!(get(&ops, "/healthz").await.status, 200);
    // The first one ends when its answer to the Close has arrived.
    let is_one = async || get(&ops, "/metrics").await.text().contains("\nlastmile_connections 1\n").then_some(());
    test_support::eventually("one connection left", is_one).await;
    assert!(tokio::net::TcpStream::connect(public.to_string()).await.is_err());
    let refused = Ws::open(&mixed, Ws::request(&authority, "/v1/subscribe", &[])).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), (503, "draining".into()));

    assert_eq!(test_support::with_timeout("the drain", stopped).await.unwrap().left, 1, "it never read its Close");
    assert!(tokio::net::TcpStream::connect(ops.to_string()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_follow_traffic() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("a").await;
    alice.subscribe("b").await;
    let mut bob = env.subscriber().await;
    bob.subscribe("a").await;
    env.publish("a", "1").await;
    env.publish("b", "1").await;
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
        env.await_metric(name, value).await;
    }
    assert_eq!(env.post("a", "application/json", b"{").await.status, 400);
    env.await_metric("lastmile_refusals_total{type=\"malformed\"}", 1.0).await;
    bob.close(1000, "").await;
    drop(alice);
    env.await_metric("lastmile_connections", 0.0).await;
    env.await_metric("lastmile_subscriptions", 0.0).await;
    env.await_metric("lastmile_closes_total{reason=\"normal\"}", 2.0).await;

    let answer = get(env.gateway.address("ops"), "/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(answer.text().contains("# TYPE lastmile_publications_total counter"));
    assert!(!answer.text().contains("alice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_without_role_is_404() {
    let env = TestEnv::start("").await;
    let not_found = (404, "not-found".to_owned());
    for path in ["/healthz", "/readyz", "/metrics", "/v1/publish", "/v1/channels/c", "/nowhere", "/"] {
        assert_eq!(get(env.gateway.address("public"), path).await.refusal(), not_found, "{path}");
    }
    for path in ["/healthz", "/metrics", "/v1/subscribe", "/v1", "/v1/channels", "/v1/channels/c/messages/x"] {
        assert_eq!(get(env.gateway.address("publish"), path).await.refusal(), not_found, "{path}");
    }
    for path in ["/v1/subscribe", "/v1/publish", "/v1/channels/c"] {
        assert_eq!(get(env.gateway.address("ops"), path).await.refusal(), not_found, "{path}");
    }
    let request = Ws::request(&env.gateway.authority("publish"), "/v1/subscribe", &[]);
    let refused = Ws::open(env.gateway.address("publish"), request).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), not_found);
    let signed = env.publisher.request(&env.gateway.authority("public"), "GET", "/v1/channels/c", None);
    assert_eq!(http::send(env.gateway.address("public"), signed).await.refusal(), not_found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_method_is_refused() {
    let env = TestEnv::start("").await;
    for (listener, method, path) in [
        ("ops", "POST", "/healthz"),
        ("public", "POST", "/v1/subscribe"),
        ("publish", "PATCH", "/v1/channels/c"),
        ("publish", "GET", "/v1/channels/c/messages"),
        ("publish", "TRACE", "/v1/channels/c"),
        ("publish", "POST", "/v1/publish"),
    ] {
        let address = env.gateway.address(listener);
        let request = Request::builder().method(method).uri(path).header("host", address.to_string());
        let answer = http::send(address, request.body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.refusal(), (405, "method-not-allowed".into()), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_carry_security_headers() {
    let env = TestEnv::start("").await;
    for (listener, path) in [("ops", "/healthz"), ("public", "/nowhere"), ("publish", "/v1/channels/c")] {
        let answer = get(env.gateway.address(listener), path).await;
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("server"), "", "no version banner");
        assert_eq!(answer.header("strict-transport-security"), "", "not without TLS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_type_is_a_page() {
    let env = TestEnv::start("").await;
    let answer = get(env.gateway.address("publish"), "/v1/channels/c").await;
    let problem = answer.json();
    assert_eq!(problem["type"], "/problems/signature-missing");
    let page = get(env.gateway.address("publish"), problem["type"].as_str().unwrap()).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("401"), "{page:?}");
    assert_eq!(get(env.gateway.address("public"), "/problems/nonsense").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_socket_is_a_listener() {
    let folder = test_support::TempDir::new();
    let path = folder.path().join("gateway.sock");
    let listener =
        format!("[listeners.unix]\naddress = \"unix:{}\"\nroles = [\"subscribe\", \"publish\"]\n", path.display());
    let env = TestEnv::start(&listener).await;
    let address = env.gateway.address("unix").clone();
    let mut alice = Ws::open(&address, Ws::request("localhost", "/v1/subscribe", &[])).await.expect("an upgrade");
    alice.hello(Some(&env.issuer.token("alice"))).await;
    alice.subscribe("c").await;
    let body = Some(("application/json", b"1".as_slice()));
    let request = env.publisher.request("localhost", "POST", "/v1/channels/c/messages", body);
    assert_eq!(http::send(&address, request).await.status, 200);
    assert_eq!(alice.expect("message").await["data"], 1);
    // Publications of TCP clients reach it as well.
    env.publish("c", "2").await;
    assert_eq!(alice.expect("message").await["data"], json!(2));
    alice.close(1000, "").await;
    env.gateway.stop().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_connection_limit_frees_slots() {
    let listener = "[listeners.narrow]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\nmax_connections = 2\n";
    let env = TestEnv::start(listener).await;
    let (address, authority) = (env.gateway.address("narrow"), env.gateway.authority("narrow"));
    let open = async || Ws::open(address, Ws::request(&authority, "/v1/subscribe", &[])).await;
    let first = open().await.expect("an upgrade");
    let _second = open().await.expect("an upgrade");
    // The answer comes at once, without a request.
    let answer = unsolicited_answer(address).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    drop(first);
    // The second one, and the question itself.
    env.await_metric("lastmile_sockets", 2.0).await;
    open().await.expect("an upgrade");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_connection_limit_holds() {
    let env = TestEnv::start("[limits]\nmax_connections_per_address = 2\n").await;
    let first = env.connect().await;
    let _second = env.connect().await;
    assert!(unsolicited_answer(env.gateway.address("public")).await.starts_with("HTTP/1.1 503 "));
    assert!(
        unsolicited_answer(env.gateway.address("publish")).await.starts_with("HTTP/1.1 503 "),
        "over all listeners"
    );
    drop(first);
    healthy_at_last(&env).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn total_connection_limit_holds() {
    let env = TestEnv::start("[limits]\nmax_connections = 3\n").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(env.subscriber().await);
    }
    assert!(unsolicited_answer(env.gateway.address("public")).await.starts_with("HTTP/1.1 503 "));
    // Health checks and publishers have places in reserve.
    assert_eq!(http::get(env.gateway.address("ops"), "/healthz").await.status, 200);
    env.publish("c", "1").await;
    let _publisher = env.publisher_ws().await;
    open.pop();
    env.await_metric("lastmile_connections", 3.0).await;
    env.subscriber().await;
}

/// Waits until there is room for one connection more.
async fn healthy_at_last(env: &TestEnv) {
    test_support::eventually("room", async || {
        let (mut io, mut answer) = (http::connect(env.gateway.address("ops")).await, String::new());
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let exchanged = io.write_all(request).await.is_ok() && io.read_to_string(&mut answer).await.is_ok();
        (exchanged && answer.starts_with("HTTP/1.1 200 ")).then_some(())
    })
    .await;
}

/// The answer of a listener to a connection that sends nothing.
async fn unsolicited_answer(address: &Address) -> String {
    let (mut io, mut answer) = (http::connect(address).await, String::new());
    test_support::with_timeout("an answer", io.read_to_string(&mut answer)).await.unwrap();
    answer
}
