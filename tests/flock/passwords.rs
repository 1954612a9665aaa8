//! Passwords: failures are limited, and a reload revokes them.

use std::time::Instant;

use crate::client::{HASH, basic, publish, request, send, start_open};
use test_support::{TestEnv, eventually};

async fn status(env: &TestEnv, username: &str, password: &str) -> u16 {
    let mut request = request(env, "/api/v1/event/t", "1");
    request.headers_mut().insert("authorization", basic(username, password).parse().unwrap());
    send(env, request).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_slowed_for_guesser_only() {
    let env = start_open().await;
    publish(&env, "t", "1").await;
    let (mut refused, began) = (0, Instant::now());
    for n in 0..60 {
        let (username, password) = if n % 2 == 0 { ("admin", n.to_string()) } else { ("unknown", "password".into()) };
        match status(&env, username, &password).await {
            401 => {}
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    // Twenty at once, one a second, and those that were verified at the same time.
    let passed = 60 - refused;
    assert!(refused > 0 && passed <= 22 + began.elapsed().as_secs(), "{passed} after {:?}", began.elapsed());
    assert_eq!(status(&env, "admin", "password").await, 204);
    eventually("forgiveness", async || (status(&env, "admin", "wrong").await == 401).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_logins_share_verifications() {
    let env = std::sync::Arc::new(start_open().await);
    let all: Vec<_> = (0..100)
        .map(|_| {
            let env = env.clone();
            tokio::spawn(async move { status(&env, "admin", "password").await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 204);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_revokes_password_at_once() {
    let listener = "[listeners.control]\naddress = \"127.0.0.1:0\"\nroles = [\"flock-publish\"]\n";
    let publisher = |hash: &str| {
        format!(
            "[publishers.older]\nbasic = {{ username = \"admin\", password_argon2 = \"{hash}\" }}\nchannels = [\"*\"]\n{listener}"
        )
    };
    let env = TestEnv::start(&publisher(HASH)).await;
    assert_eq!(status(&env, "admin", "password").await, 204);
    let signed = env.publisher.toml("market-data", &["*"]);
    let other = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    env.reload(&signed, &publisher(other));
    assert_eq!(status(&env, "admin", "password").await, 401);
    env.reload(&signed, &publisher(HASH));
    assert_eq!(status(&env, "admin", "password").await, 204);
    env.reload(&signed, listener);
    assert_eq!(status(&env, "admin", "password").await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_removed_before_end_of_body() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let env = start_open().await;
    let mut io = test_support::http::connect(env.gateway.address("control")).await;
    let head = format!(
        "POST /api/v1/event/t HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\
         authorization: {}\r\nexpect: 100-continue\r\n\r\n",
        basic("admin", "password")
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let mut wait = [0; 25];
    test_support::with_timeout("100 Continue", io.read_exact(&mut wait)).await.unwrap();
    assert_eq!(&wait, b"HTTP/1.1 100 Continue\r\n\r\n");
    let control = "[listeners.control]\naddress = \"127.0.0.1:0\"\nroles = [\"flock-publish\"]\n";
    env.reload(&env.publisher.toml("market-data", &["*"]), control);
    io.write_all(b"1").await.unwrap();
    let mut status = [0; 12];
    test_support::with_timeout("a response", io.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_and_password_share_entry() {
    let env = start_open().await;
    let both = env.publisher.toml("both", &["t"]);
    let basic = format!("rate_limit_per_second = 1\nbasic = {{ username = \"both\", password_argon2 = \"{HASH}\" }}\n");
    let listeners = "[listeners.flight]\naddress = \"127.0.0.1:0\"\nroles = [\"flock\"]\n\
                     [listeners.control]\naddress = \"127.0.0.1:0\"\nroles = [\"flock-publish\"]\n";
    env.reload(&format!("{both}\n{basic}"), listeners);
    // At once, so that no second passes in between: one of them has the only place.
    let (basic, signed) = tokio::join!(status(&env, "both", "password"), env.post("t", "application/json", b"1"));
    assert!(matches!((basic, signed.status.as_u16()), (204, 429) | (429, 200)), "{basic} {signed:?}");
    assert_eq!(env.post("u", "application/json", b"1").await.refusal(), (403, "channel-forbidden".into()));
}
