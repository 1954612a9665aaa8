//! Signed requests: every reason for a refusal, and its code.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use test_support::{RedisServer, TestEnv, TestPublisher, unix_now};

const PATH: &str = "/v1/channels/prices.btc/messages?a=1";
const JSON: Option<(&str, &[u8])> = Some(("application/json", b"{\"usd\":1}"));

fn set(request: &mut Request<Bytes>, name: &'static str, change: impl FnOnce(&str) -> String) {
    let before = request.headers()[name].to_str().unwrap();
    let after = HeaderValue::try_from(change(before)).unwrap();
    request.headers_mut().insert(HeaderName::from_static(name), after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_request_is_shown_how_to_sign() {
    let env = TestEnv::start("").await;
    for name in ["signature", "signature-input"] {
        let mut request = env.request("POST", PATH, JSON);
        request.headers_mut().remove(name);
        let answer = env.send(request).await;
        assert_eq!(answer.refusal(), (401, "signature-missing".into()));
        assert_eq!(answer.header("www-authenticate"), "Signature");
    }
    for (method, path) in [("GET", "/v1/channels/c"), ("PUT", "/v1/channels/c"), ("DELETE", "/v1/channels/c")] {
        let mut request = env.request(method, path, None);
        request.headers_mut().remove("signature");
        assert_eq!(env.send(request).await.refusal(), (401, "signature-missing".into()), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_signed_byte_is_refused() {
    let env = TestEnv::start("").await;
    let check = async |what: &str, expected: &str, change: &dyn Fn(&mut Request<Bytes>)| {
        let mut request = env.request("POST", PATH, JSON);
        change(&mut request);
        let status = if expected == "host-unknown" { 421 } else { 401 };
        assert_eq!(env.send(request).await.refusal(), (status, expected.into()), "{what}");
    };
    check("path", "signature-invalid", &|request| {
        *request.uri_mut() = "/v1/channels/prices.btd/messages?a=1".parse().unwrap();
    })
    .await;
    check("path in another spelling", "signature-invalid", &|request| {
        *request.uri_mut() = "/v1/channels/prices%2Ebtc/messages?a=1".parse().unwrap();
    })
    .await;
    check("query", "signature-invalid", &|request| *request.uri_mut() = PATH.replace("a=1", "a=2").parse().unwrap())
        .await;
    check("no query", "signature-invalid", &|request| *request.uri_mut() = PATH.replace("?a=1", "").parse().unwrap())
        .await;
    check("other name of the listener", "signature-invalid", &|request| {
        set(request, "host", |host| host.replace("127.0.0.1", "localhost"));
    })
    .await;
    check("authority", "host-unknown", &|request| {
        set(request, "host", |host| host.replace("127.0.0.1", "127.0.0.2"));
    })
    .await;
    check("port", "host-unknown", &|request| set(request, "host", |host| format!("{host}1"))).await;
    check("type", "signature-invalid", &|request| set(request, "content-type", |_| "application/jsom".into())).await;
    check("body", "digest-mismatch", &|request| *request.body_mut() = "{\"usd\":2}".into()).await;
    check("longer body", "digest-mismatch", &|request| *request.body_mut() = "{\"usd\":1} ".into()).await;
    check("digest", "signature-invalid", &|request| {
        set(request, "content-digest", |_| format!("sha-256=:{}:", "A".repeat(43) + "="));
    })
    .await;
    check("signature", "signature-invalid", &|request| {
        set(request, "signature", |old| {
            let at = "lastmile=:".len() + 3;
            let other = if old.as_bytes()[at] == b'A' { "B" } else { "A" };
            format!("{}{other}{}", &old[..at], &old[at + 1..])
        });
    })
    .await;
    check("created", "signature-invalid", &|request| {
        set(request, "signature-input", |old| {
            let now = old.split("created=").nth(1).unwrap().split(';').next().unwrap();
            let before = now.parse::<u64>().unwrap() - 1;
            old.replace(now, &before.to_string())
        });
    })
    .await;
    check("nonce", "signature-invalid", &|request| {
        set(request, "signature-input", |old| old.replace("nonce=\"", "nonce=\"x"));
    })
    .await;

    // The method decides the route as well: a signed GET is no DELETE.
    let mut request = env.request("GET", "/v1/channels/c", None);
    *request.method_mut() = http::Method::DELETE;
    assert_eq!(env.send(request).await.refusal(), (401, "signature-invalid".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_has_one_form() {
    let env = TestEnv::start("").await;
    let check = async |what: &str, change: &dyn Fn(&mut Request<Bytes>)| {
        let mut request = env.request("POST", PATH, JSON);
        change(&mut request);
        assert_eq!(env.send(request).await.refusal(), (401, "signature-invalid".into()), "{what}");
    };
    let edit = |from: &'static str, to: &'static str| {
        move |request: &mut Request<Bytes>| {
            set(request, "signature-input", |old| {
                assert!(old.contains(from), "{old}");
                old.replace(from, to)
            });
        }
    };
    check("a component less", &edit(" \"@query\"", "")).await;
    check("a component more", &edit("\"content-type\")", "\"content-type\" \"host\")")).await;
    check("another order", &edit("\"@method\" \"@authority\"", "\"@authority\" \"@method\"")).await;
    check("a component's parameter", &edit("\"content-type\")", "\"content-type\";sf)")).await;
    check("another algorithm", &edit("alg=\"ed25519\"", "alg=\"hmac-sha256\"")).await;
    check("another tag", &edit("tag=\"lastmile\"", "tag=\"lastmilf\"")).await;
    check("an unknown parameter", &edit(";tag=", ";x=1;tag=")).await;
    check("a short nonce", &|request| {
        set(request, "signature-input", |old| {
            let nonce = old.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
            old.replace(nonce, "short")
        });
    })
    .await;
    check("two signatures", &|request| {
        for name in ["signature", "signature-input"] {
            set(request, name, |old| format!("{old}, other{}", &old["lastmile".len()..]));
        }
    })
    .await;
    check("a header twice", &|request| {
        let again = request.headers()["signature-input"].clone();
        request.headers_mut().append("signature-input", again);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_needs_digest() {
    let env = TestEnv::start("").await;
    let mut request = env.request("POST", PATH, JSON);
    request.headers_mut().remove("content-digest");
    assert_eq!(env.send(request).await.refusal(), (401, "digest-missing".into()));

    // Signed as a request without a body, and then given one.
    let mut request = env.request("POST", PATH, None);
    *request.body_mut() = "1".into();
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(env.send(request).await.refusal(), (401, "digest-missing".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlisted_key_is_unknown() {
    let env = TestEnv::start("").await;
    let stranger = TestPublisher::new();
    let request = stranger.request(&env.gateway.authority("publish"), "POST", PATH, JSON);
    let answer = env.send(request).await;
    assert_eq!(answer.refusal(), (401, "key-unknown".into()));

    // Nor does naming another's key help.
    let mut request = stranger.request(&env.gateway.authority("publish"), "POST", PATH, JSON);
    set(&mut request, "signature-input", |old| old.replace(stranger.fingerprint(), env.publisher.fingerprint()));
    assert_eq!(env.send(request).await.refusal(), (401, "signature-invalid".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_is_valid_for_a_minute() {
    // An engine that knows which signatures were used before the start.
    let redis = RedisServer::start(false);
    let engine = format!("[engine]\nkind = \"redis\"\nurl = {:?}\n", redis.url());
    let env = TestEnv::start_nodes(1, &engine, redis).await;
    let authority = env.gateway.authority("publish");
    let send = async |now: u64| env.send(env.publisher.request_at(&authority, "POST", PATH, JSON, now)).await;
    assert_eq!(send(unix_now() - 50).await.status, 200);
    assert_eq!(send(unix_now() + 50).await.status, 200);
    for stale in [unix_now() - 62, unix_now() + 70, 0] {
        assert_eq!(send(stale).await.refusal(), (401, "signature-stale".into()), "{stale}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_is_accepted_once() {
    let env = std::sync::Arc::new(TestEnv::start("").await);
    let request = env.request("POST", PATH, JSON);
    let sends = (0..16).map(|_| {
        let (env, request) = (env.clone(), request.clone());
        tokio::spawn(async move { env.send(request).await })
    });
    let mut taken = 0;
    for send in sends.collect::<Vec<_>>() {
        let answer = send.await.unwrap();
        match answer.status.as_u16() {
            200 => taken += 1,
            _ => assert_eq!(answer.refusal(), (401, "signature-replayed".into())),
        }
    }
    assert_eq!(taken, 1);
    assert_eq!(env.metric("lastmile_publications_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_body_spends_no_nonce() {
    let env = TestEnv::start("").await;
    let good = env.request("POST", PATH, JSON);
    let mut bad = good.clone();
    *bad.body_mut() = "{\"usd\":2}".into();
    assert_eq!(env.send(bad).await.problem(), "digest-mismatch");
    assert_eq!(env.send(good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_refusal_closes_connection() {
    let env = TestEnv::start("").await;
    let stranger = TestPublisher::new();
    let refused = env.send(stranger.request(&env.gateway.authority("publish"), "POST", PATH, JSON)).await;
    assert_eq!((refused.status.as_u16(), refused.header("connection")), (401, "close"));
    let taken = env.call("POST", PATH, JSON).await;
    assert_eq!((taken.status.as_u16(), taken.header("connection")), (200, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashed_key_comes_with_request() {
    let env = TestEnv::start("").await;
    let hashed = TestPublisher::new();
    let entry = format!("\n[publishers.hashed]\nsha256 = \"{}\"\nchannels = [\"*\"]\n", hashed.fingerprint());
    env.reload(&entry, "");
    let authority = env.gateway.authority("publish");
    let request = || hashed.request(&authority, "POST", PATH, JSON);
    assert!(request().headers().contains_key("lastmile-public-key"));
    assert_eq!(env.send(request()).await.status, 200);

    let mut without = request();
    without.headers_mut().remove("lastmile-public-key");
    assert_eq!(env.send(without).await.refusal(), (401, "signature-invalid".into()));

    let mut other = request();
    let key = env.request("POST", PATH, JSON).headers()["lastmile-public-key"].clone();
    other.headers_mut().insert("lastmile-public-key", key);
    assert_eq!(env.send(other).await.refusal(), (401, "signature-invalid".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_key_is_refused_on_open_connection() {
    let env = TestEnv::start("").await;
    let ends = jiff::Timestamp::from_second(unix_now() as i64 + 8).unwrap();
    let limited = TestPublisher::new();
    env.reload(&format!("{}not_after = \"{ends}\"\n", limited.toml("limited", &["*"])), "");
    let authority = env.gateway.authority("publish");
    assert_eq!(env.send(limited.request(&authority, "POST", PATH, JSON)).await.status, 200);
    let mut ws = env.open_publisher(&limited).await.expect("an upgrade");
    assert_eq!(ws.expect("welcome").await["expires"], ends.to_string());

    test_support::eventually("the key's end", async || (unix_now() >= ends.as_second() as u64).then_some(())).await;
    let answer = env.send(limited.request(&authority, "POST", PATH, JSON)).await;
    assert_eq!(answer.refusal(), (401, "key-expired".into()));
    let refused = env.open_publisher(&limited).await.err().expect("no upgrade");
    assert_eq!(refused.refusal(), (401, "key-expired".into()));
    // A publication that the close overtakes is refused as well.
    if ws.try_send_text(r#"{"type":"publish","id":"1","channel":"c","data":1}"#).await
        && let Ok(answer) = ws.next().await
    {
        assert!(answer.contains("key_expired"), "{answer}");
    }
    assert_eq!(env.metric("lastmile_publications_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limited_publisher_gets_retry_after() {
    let env = TestEnv::start("").await;
    let fast = TestPublisher::new();
    env.reload(&format!("{}rate_limit_per_second = 2\n", fast.toml("fast", &["*"])), "");
    let authority = env.gateway.authority("publish");
    let mut limited = 0;
    let at_once = (0..6).map(|_| env.send(fast.request(&authority, "POST", PATH, JSON)));
    for answer in futures_util::future::join_all(at_once).await {
        if answer.status != 200 {
            assert_eq!(answer.refusal(), (429, "rate-limited".into()));
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            limited += 1;
        }
    }
    assert!((1..=4).contains(&limited), "{limited} of 6 were refused");

    let mut ws = env.open_publisher(&fast).await.expect("an upgrade");
    ws.expect("welcome").await;
    for id in 0..6 {
        ws.feed(format!(r#"{{"type":"publish","id":"{id}","channel":"c","data":1}}"#)).await;
    }
    ws.flush().await;
    let mut refused = 0;
    for _ in 0..6 {
        let answer = ws.json().await;
        if answer["type"] == "error" {
            assert_eq!((&answer["code"], &answer["temporary"]), (&"rate_limited".into(), &true.into()), "{answer}");
            refused += 1;
        }
    }
    assert!(refused >= 1);
}
