//! `POST /v1/channels/{channel}/messages`: what subscribers get, what publishers are answered.

use http::HeaderValue;
use serde_json::json;
use test_support::TestEnv;

/// The `data` of a message, byte for byte.
fn data_of(message: &str) -> &str {
    let (_, data) = message.split_once(r#","data":"#).expect("data");
    data.strip_suffix('}').unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_arrives_byte_for_byte() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("prices.btc").await;

    // Spaces, order, precision and escapes are the publisher's own.
    let data = r#"{"z": 1.50, "a":12345678901234567890123,"é":"\u00e9\/", "a": [ ] }"#;
    let answer = env.publish("prices.btc", data).await;
    let (epoch, id) = (answer["epoch"].as_str().unwrap(), answer["id"].as_str().unwrap());
    assert_eq!(answer, json!({"channel": "prices.btc", "id": id, "offset": 1, "epoch": epoch}));

    let message = alice.text().await;
    let time = serde_json::from_str::<serde_json::Value>(&message).unwrap()["time"].as_str().unwrap().to_owned();
    let expected = format!(
        r#"{{"type":"message","channel":"prices.btc","message_id":"{id}","epoch":"{epoch}","offset":1,"time":"{time}","publisher":"market-data","data":{data}}}"#
    );
    assert_eq!(message, expected);
    assert!(time.len() == 24 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_string_other_is_base64() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;

    assert_eq!(env.post("c", "text/plain; charset=utf-8", "a \"b\"\n é".as_bytes()).await.status, 200);
    let message = alice.expect("message").await;
    assert_eq!((&message["data"], message.get("encoding")), (&json!("a \"b\"\n é"), None));

    assert_eq!(env.post("c", "application/octet-stream", &[0, 255, 1, 2]).await.status, 200);
    let message = alice.expect("message").await;
    assert_eq!((&message["data"], &message["encoding"]), (&json!("AP8BAg=="), &json!("base64")));

    assert_eq!(env.post("c", "Application/JSON;charset=utf-8", b" null\n").await.status, 200);
    assert_eq!(data_of(&alice.text().await), "null");

    assert_eq!(env.post("c", "text/plain", b"\xff").await.refusal(), (400, "malformed".into()));
    assert_eq!(env.post("c", "application/json", b"{\"a\":}").await.refusal(), (400, "malformed".into()));
    assert_eq!(env.post("c", "application/json", b"").await.refusal(), (400, "malformed".into()));
    assert_eq!(env.post("c", "", b"1").await.refusal(), (415, "unsupported-media-type".into()));
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_rise_and_ids_are_unique() {
    let env = TestEnv::start("").await;
    let mut ids = std::collections::HashSet::new();
    for offset in 1..=5 {
        for channel in ["a", "b"] {
            let answer = env.publish(channel, "0").await;
            assert_eq!((&answer["offset"], &answer["channel"]), (&json!(offset), &json!(channel)));
            assert!(ids.insert(answer["id"].to_string()), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_is_many_messages_one_signature() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let answer = env.post("c", "application/x-ndjson", b"{\"n\": 1}\n\n\"two\"\r\n3").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answers = answer.json();
    for (index, data) in ["{\"n\": 1}", "\"two\"", "3"].into_iter().enumerate() {
        let message = alice.text().await;
        assert_eq!(data_of(&message), data);
        assert_eq!(answers[index]["offset"], index + 1);
        assert!(message.contains(answers[index]["id"].as_str().unwrap()));
    }
    assert_eq!(answers.as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_batch_publishes_nothing() {
    let env = TestEnv::start("[limits]\nmax_batch_messages = 3\nmax_batch_bytes = 2048\n").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let post = async |body: &[u8]| env.post("c", "application/x-ndjson", body).await.refusal();
    assert_eq!(post(b"1\n2\n{").await, (400, "malformed".into()));
    assert_eq!(post(b"1\n2\n3\n4").await, (413, "message-too-large".into()));
    assert_eq!(post(b"\n\n \n").await, (400, "malformed".into()));
    assert_eq!(post(&b"\n".repeat(2049)).await, (413, "message-too-large".into()));
    assert_eq!(post(&[b"1\n".as_slice(), &b"[".repeat(33)].concat()).await, (400, "malformed".into()));
    alice.expect_silence().await;
    assert_eq!(env.publish("c", "0").await["offset"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_publishes_once() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let post = async |channel: &str, key: &str, body: &[u8]| {
        let path = format!("/v1/channels/{channel}/messages");
        let mut request = env.request("POST", &path, Some(("application/json", body)));
        request.headers_mut().insert("idempotency-key", HeaderValue::from_str(key).unwrap());
        env.send(request).await
    };
    let first = post("c", "k1", b"1").await;
    let again = post("c", "k1", b"1").await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(post("c", "k1", b"2").await.refusal(), (422, "idempotency-mismatch".into()));
    assert_eq!(post("d", "k1", b"1").await.refusal(), (422, "idempotency-mismatch".into()));
    assert_eq!(post("c", "k2", b"2").await.json()["offset"], 2);
    assert_eq!(post("c", &"x".repeat(256), b"2").await.refusal(), (400, "malformed".into()));
    assert_eq!(alice.expect("message").await["data"], 1);
    assert_eq!(alice.expect("message").await["data"], 2);
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_idempotency_key_publishes_once() {
    let env = std::sync::Arc::new(TestEnv::start("").await);
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let posts = (0..16).map(|_| {
        let env = env.clone();
        tokio::spawn(async move {
            let mut request = env.request("POST", "/v1/channels/c/messages", Some(("application/json", b"1")));
            request.headers_mut().insert("idempotency-key", HeaderValue::from_static("k"));
            env.send(request).await.body
        })
    });
    let mut bodies = std::collections::HashSet::new();
    for post in posts.collect::<Vec<_>>() {
        bodies.insert(post.await.unwrap());
    }
    assert_eq!(bodies.len(), 1);
    alice.expect("message").await;
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_names_are_decoded_and_checked() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("a/b é 🚀").await;
    env.publish("a%2Fb%20%C3%A9%20%F0%9F%9A%80", "1").await;
    assert_eq!(alice.expect("message").await["channel"], "a/b é 🚀");

    let longest = "x".repeat(255);
    env.publish(&longest, "1").await;
    for name in ["%24sys", "a%00b", "a%0Ab", "%E2%80%AE", "%FF", &"x".repeat(256)] {
        let answer = env.post(name, "application/json", b"1").await;
        assert_eq!(answer.refusal(), (400, "channel-invalid".into()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_limit_holds_to_the_byte() {
    let env = TestEnv::start("[[channels]]\nmatch = \"small\"\nmax_message_bytes = 10\n").await;
    env.publish("small", "12345678.0").await;
    let answer = env.post("small", "application/json", b"12345678.00").await;
    assert_eq!(answer.refusal(), (413, "message-too-large".into()));
    let answer = env.post("small", "application/x-ndjson", b"1\n12345678.00").await;
    assert_eq!(answer.status, 200);
    let answers = answer.json();
    assert_eq!((&answers[0]["offset"], &answers[1]["status"]), (&json!(2), &json!(413)));
    assert_eq!(answers[1]["type"], "/problems/message-too-large");
}
