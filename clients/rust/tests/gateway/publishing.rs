//! Single publications, batches, streams and refusals.

use futures_util::future::join_all;
use lastmile_client::{Client, Options, Payload, Publisher, StreamOptions, SubscribeOptions, TokenSource};
use serde_json::{Value, json};

use crate::support::{TestGateway, with_timeout};

fn backlog() -> SubscribeOptions {
    SubscribeOptions { backlog: 5000, ..SubscribeOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_arrive_byte_for_byte() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let one = publisher.publish("open.a b/ü?#", &json!({"usd": 3001.5})).await.unwrap();
    assert_eq!((one.channel.as_str(), one.position.offset), ("open.a b/ü?#", 1));
    let options = |kind: &str| Options { content_type: Some(kind.into()), ..Options::default() };
    publisher.publish_with("open.a b/ü?#", "{\"n\":  1}", Options::default()).await.unwrap();
    publisher.publish_with("open.a b/ü?#", "plain", options("text/plain")).await.unwrap();
    publisher.publish_with("open.a b/ü?#", vec![0, 255], options("application/octet-stream")).await.unwrap();

    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let mut subscription = client.subscribe("open.a b/ü?#", backlog()).await.unwrap();
    let mut next = async || with_timeout("a publication", subscription.next()).await.unwrap().unwrap();
    let first = next().await;
    assert_eq!((&first.message_id, &first.position, &*first.publisher), (&one.message_id, &one.position, "p"));
    assert_eq!(first.json::<Value>().unwrap(), json!({"usd": 3001.5}));
    assert!(matches!(next().await.payload, Payload::Json(json) if json.get() == "{\"n\":  1}"));
    assert_eq!(next().await.json::<String>().unwrap(), "plain");
    let bytes = next().await;
    assert!(bytes.json::<Value>().is_err());
    assert!(matches!(bytes.payload, Payload::Bytes(bytes) if bytes == [0, 255]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_are_split() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let offsets = async |channel: &str, data: Vec<Value>| -> Vec<u64> {
        let results = publisher.publish_many(channel, data).await.unwrap();
        results.into_iter().map(|result| result.unwrap().position.offset).collect()
    };
    let many = offsets("open.many", (0..2500).map(Value::from).collect()).await;
    assert_eq!(many, (1..=2500).collect::<Vec<_>>());
    // Below the limit of messages, beyond that of bytes.
    let large = offsets("open.large", vec![Value::from("x".repeat(60_000)); 100]).await;
    assert_eq!(large, (1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_has_one_answer_per_message() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let raw = serde_json::value::RawValue::from_string("[1,\n2]".to_owned()).unwrap();
    let answers = publisher.publish_many("open.many", [json!(1), json!("a\nb")]).await.unwrap();
    assert_eq!(answers.iter().map(|one| one.as_ref().unwrap().position.offset).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        publisher.publish_many("open.many", [raw]).await.unwrap().len(),
        1,
        "a line end does not split a message"
    );
    assert!(publisher.publish_many("open.many", [0; 0]).await.unwrap().is_empty());
    // The third message exceeds the channel's limit.
    let answers = publisher.publish_many("small.x", [1, 2, 3]).await.unwrap();
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert!(!answers[2].as_ref().unwrap_err().temporary, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_acknowledges_in_order() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let stream = publisher.stream(StreamOptions { window: 50, ..StreamOptions::default() }).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..2000 {
        waiting.push(with_timeout("window space", stream.publish("open.stream", &n)).await.unwrap());
    }
    let bytes = stream.publish_bytes("open.stream", vec![1, 2]).await.unwrap();
    with_timeout("the flush", stream.flush()).await.unwrap();
    for (n, answer) in join_all(waiting).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().position.offset, n as u64 + 1);
    }
    assert_eq!(bytes.await.unwrap().position.offset, 2001);
    // A refusal affects one message only.
    let refused = stream.publish("closed.x", &1).await.unwrap().await.unwrap_err();
    assert_eq!((&*refused.code, refused.temporary), ("channel_forbidden", false));
    // Pending messages of a dropped stream are still sent.
    let last = stream.publish("open.stream", &"last").await.unwrap();
    drop(stream);
    assert_eq!(with_timeout("the last one", last).await.unwrap().position.offset, 2002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_publishes_once() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let options = || Options { idempotency_key: Some("k-1".into()), ..Options::default() };
    let first = publisher.publish_with("open.once", "1", options()).await.unwrap();
    assert_eq!(publisher.publish_with("open.once", "1", options()).await.unwrap(), first);
    let error = publisher.publish_with("open.once", "2", options()).await.unwrap_err();
    assert_eq!((&*error.code, error.status), ("idempotency_mismatch", Some(422)));
    assert_eq!(publisher.publish("open.once", &1).await.unwrap().position.offset, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_codes() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let error = publisher.publish("closed.x", &1).await.unwrap_err();
    assert_eq!((&*error.code, error.status, error.temporary), ("channel_forbidden", Some(403), false));
    let error = publisher.publish_with("open.x", "{", Options::default()).await.unwrap_err();
    assert_eq!(error.code, "malformed");
    let unknown = Publisher::connect(&gateway.publish, gateway.unknown_key()).unwrap();
    assert_eq!(unknown.publish("open.x", &1).await.unwrap_err().code, "key_unknown");
    let error = unknown.stream(StreamOptions::default()).await.unwrap_err();
    assert_eq!((&*error.code, error.status), ("key_unknown", Some(401)));
    assert_eq!(unknown.replies().await.unwrap_err().code, "key_unknown");
    let mut watch = unknown.watch("open.x").await.unwrap();
    assert_eq!(with_timeout("the end", watch.next()).await.unwrap().unwrap_err().code, "key_unknown");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_gateway_is_retried() {
    let gateway = TestGateway::start();
    // No process listens on this port.
    let unreachable = crate::support::with_fast_retries("http://127.0.0.1:1");
    let unreachable = unreachable.with_retries_for(std::time::Duration::from_millis(200));
    let publisher = Publisher::connect(unreachable, gateway.key()).unwrap();
    let error = with_timeout("the end of the retries", publisher.publish("open.x", &1)).await.unwrap_err();
    assert_eq!((&*error.code, error.temporary), ("unreachable", true));
}
