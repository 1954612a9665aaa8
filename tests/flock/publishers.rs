//! Publishers: statuses and bodies of flock, and errors where flock sent none.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{basic, connect, expect_silence, publish, request, send, start, start_open, subscribe};
use test_support::{TestEnv, http, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_clients_request_is_accepted() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    assert!(subscribe(&mut ws, "a/b c").await);
    let authority = env.gateway.authority("control");
    let head = format!(
        "POST /api/v1/event/a/b%20c?d HTTP/1.1\r\nauthorization: Basic YWRtaW46cGFzc3dvcmQ=\r\n\
         content-type: application/json\r\naccept: */*\r\nhost: {authority}\r\ncontent-length: 7\r\n\r\n{{\"x\":1}}"
    );
    let mut stream = tokio::net::TcpStream::connect(authority).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let read = with_timeout("an answer", stream.read(&mut answer)).await.unwrap();
    let answer = std::str::from_utf8(&answer[..read]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(ws.text().await, r#"{"payload":{"x":1},"topic":"a/b c","type":"event"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publication_without_subscribers_is_accepted() {
    publish(&start_open().await, "unknown", "{}").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_match_flock() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    assert!(subscribe(&mut ws, "t").await);
    let wrong = [
        None,
        Some(basic("admin", "wrong")),
        Some(basic("admin", "")),
        Some(basic("unknown", "password")),
        Some(basic("", "")),
        Some(basic("Admin", "password")),
        Some(basic("admin", "password").replace("Basic", "basic")),
        Some(basic("admin", "password").replace("Basic ", "Basic  ")),
        Some(basic("admin", "password").replace("Basic", "Bearer")),
        Some("Basic".into()),
        Some("Basic ???".into()),
        Some("Basic YWRtaW4=".into()),
    ];
    for credential in wrong {
        let mut request = request(&env, "/api/v1/event/t", "1");
        request.headers_mut().remove("authorization");
        if let Some(credential) = &credential {
            request.headers_mut().insert("authorization", credential.parse().unwrap());
        }
        let answer = send(&env, request).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (401, "Unauthorized"), "{credential:?}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.header("www-authenticate"), "");
    }
    expect_silence(&mut ws).await;
    publish(&env, "t", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_types_and_methods_match_flock() {
    let env = start_open().await;
    let status = async |method: &str, path: &str, content_type: Option<&str>| {
        let mut request = request(&env, path, "1");
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        let answer = send(&env, request).await;
        assert!(answer.body.is_empty() || answer.status != 404 || !path.starts_with("/api/v1/event/"), "{answer:?}");
        (answer.status.as_u16(), answer.header("allow").to_owned())
    };
    let json = Some("application/json");
    let no = |status| (status, String::new());
    assert_eq!(status("POST", "/api/v1/event/t", json).await, no(204));
    assert_eq!(status("POST", "/api/v1/event/t", None).await, no(404));
    assert_eq!(status("POST", "/api/v1/event/t", Some("application/json; charset=utf-8")).await, no(404));
    assert_eq!(status("POST", "/api/v1/event/t", Some("text/plain")).await, no(404));
    assert_eq!(status("PUT", "/api/v1/event/t", json).await, (405, "POST".into()));
    assert_eq!(status("GET", "/api/v1/event/t", json).await, (405, "POST".into()));
    assert_eq!(status("POST", "/api/v1/event", json).await, no(404));
    assert_eq!(status("POST", "/api/v1/event%2Ft", json).await, no(404));
    // Internal paths of flock are not served.
    assert_eq!(status("PUT", "/api/v1/subscription/t?host=a&port=1", json).await, no(404));
    assert_eq!(status("DELETE", "/api/v1/subscription?host=a&port=1", json).await, no(404));
    assert_eq!(status("GET", "/api/v1/services/flight", json).await, no(404));
    assert_eq!(status("GET", "/api/v1/healthcheck", json).await, no(404));
    assert_eq!(status("POST", "/v1/channels/t/messages", json).await, no(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_json_body_is_refused() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    assert!(subscribe(&mut ws, "t").await);
    for body in [&b""[..], b"x", b"{} {}", b"\"\xff\"", "[".repeat(100).as_bytes()] {
        let answer = send(&env, request(&env, "/api/v1/event/t", Bytes::copy_from_slice(body))).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    expect_silence(&mut ws).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_limits_publishers_and_channels() {
    let publisher = format!(
        "[publishers.prices]\nbasic = {{ username = \"p\", password_argon2 = \"{}\" }}\nchannels = [\"prices.*\"]",
        crate::client::HASH
    );
    let env = start(&publisher).await;
    let status = async |topic: &str| {
        let mut request = request(&env, &format!("/api/v1/event/{topic}"), "1");
        request.headers_mut().insert("authorization", basic("p", "password").parse().unwrap());
        send(&env, request).await.status.as_u16()
    };
    assert_eq!(status("prices.btc").await, 204);
    assert_eq!(status("alerts").await, 403);
    assert_eq!(status("prices.%0A").await, 403);
    assert_eq!(status("").await, 403);

    let listener = "[listeners.control]\naddress = \"127.0.0.1:0\"\nroles = [\"flock-publish\"]\n";
    let env = TestEnv::start(listener).await;
    let answer = send(&env, request(&env, "/api/v1/event/t", "1")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (401, "Unauthorized"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_listener_serves_both_roles() {
    let listener = "[listeners.both]\naddress = \"127.0.0.1:0\"\nroles = [\"flock\", \"flock-publish\"]\n";
    let env = start(listener).await;
    let address = env.gateway.address("both");
    assert_eq!(http::get(address, "/ws").await.status, 426);
    assert_eq!(http::send(address, request(&env, "/api/v1/event/t", "1")).await.status, 204);
}
