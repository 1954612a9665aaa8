//! Replies, answers and presence events.

use lastmile_client::{Client, Event, Publisher, SubscribeOptions, TokenSource};
use serde_json::{Value, json};

use crate::support::{TestGateway, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_and_answer_round_trip() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let mut replies = with_timeout("the connection", publisher.replies()).await.unwrap();
    assert_eq!(publisher.replies().await.unwrap_err().code, "already_open");

    let client = Client::connect(&gateway.public, TokenSource::fixed(gateway.token("alice", "1h"))).unwrap();
    let mut support = client.subscribe("support", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(with_timeout("subscribed", support.next()).await, Some(Ok(Event::Subscribed { .. }))));
    let question = publisher.publish("support", &"Shall I?").await.unwrap();
    let Some(Ok(Event::Publication(message))) = with_timeout("a message", support.next()).await else {
        panic!("no message")
    };
    assert_eq!(message.message_id, question.message_id);

    let yes = json!({"text": "yes"});
    let replying = client.reply("support", &message.message_id, &yes);
    let taking = async {
        let reply = with_timeout("the reply", replies.next()).await.unwrap();
        assert_eq!((reply.channel(), reply.to()), ("support", &*question.message_id));
        assert_eq!(reply.principal().unwrap().subject, "alice");
        assert_eq!(reply.json::<Value>().unwrap(), json!({"text": "yes"}));
        reply.received().await.unwrap();
    };
    let (replied, ()) = with_timeout("both", async { tokio::join!(replying, taking) }).await;
    replied.unwrap();

    let asking = client.ask::<Value, _>("support", &message.message_id, &"a ticket?");
    let answering = async {
        let reply = with_timeout("the question", replies.next()).await.unwrap();
        reply.answer(&json!({"ticket": 17})).await.unwrap();
        reply
    };
    let (answer, reply) = with_timeout("both", async { tokio::join!(asking, answering) }).await;
    assert_eq!(answer.unwrap(), json!({"ticket": 17}));
    assert_eq!(reply.answer(&1).await.unwrap_err().code, "reply_unknown");
    let error = client.reply("support", "nonsense", &1).await.unwrap_err();
    assert_eq!((&*error.code, error.temporary), ("message_unknown", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_reports_presence_events() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let mut watch = publisher.watch("support").await.unwrap();
    let mut next = async || with_timeout("an event", watch.next()).await.unwrap().unwrap();
    let event = next().await;
    assert_eq!((&*event.event, event.connections), ("watching", 0));

    let client = Client::connect(&gateway.public, TokenSource::fixed(gateway.token("bob", "1h"))).unwrap();
    let support = client.subscribe("support", SubscribeOptions::default()).await.unwrap();
    let event = next().await;
    assert_eq!((&*event.event, event.connections, event.missed), ("subscribed", 1, 0));
    assert_eq!(event.principal.unwrap().subject, "bob");
    drop(support);
    let event = next().await;
    assert_eq!((&*event.event, event.connections), ("unsubscribed", 0));

    let mut refused = publisher.watch("closed.x").await.unwrap();
    let error = with_timeout("the refusal", refused.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code, "channel_forbidden");
    // A channel can be watched again.
    drop(watch);
    let mut watch = publisher.watch("support").await.unwrap();
    assert_eq!(with_timeout("watching", watch.next()).await.unwrap().unwrap().event, "watching");
}
