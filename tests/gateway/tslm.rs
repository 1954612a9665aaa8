//! The TSLM dialect: what an unchanged client of that system sees, byte for byte.

use serde_json::json;
use test_support::gateway::{ISSUER, TestGateway};
use test_support::{TempDir, TestEnv, TestIssuer, TestPublisher, Ws};
use tokio_tungstenite::tungstenite::Message;

const LISTENERS: &str = r#"
[[channels]]
match = "secret"
subscribers = { scope = "read" }
[listeners.sub]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["Subscribe"]
[listeners.pub]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["CreateChannel", "NotifyChannel"]
channels = ["*"]
[listeners.all]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["Subscribe", "CreateChannel", "NotifyChannel"]
channels = ["*"]
[listeners.tokens]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["Subscribe", "CreateChannel", "NotifyChannel"]
channels = ["*"]
auth_tokens = ["first-token", "second-token"]
[listeners.rate]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["Subscribe", "CreateChannel", "NotifyChannel"]
channels = ["*"]
rate_limit_per_second = 2
[listeners.small]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["CreateChannel", "NotifyChannel"]
channels = ["*"]
max_message_size = 100
"#;

async fn connect(env: &TestEnv, listener: &str) -> Ws {
    let request = Ws::request(&env.gateway.authority(listener), "/any/path?x=1", &[]);
    Ws::open(env.gateway.address(listener), request).await.expect("an upgrade")
}

/// Sends a text; the next one must be this.
async fn check(ws: &mut Ws, sent: &str, expected: &str) {
    ws.send_text(sent).await;
    assert_eq!(ws.text().await, expected, "to {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tslm_transcript_is_reproduced() {
    let env = TestEnv::start(LISTENERS).await;
    let (mut sub, mut publisher, mut all) =
        (connect(&env, "sub").await, connect(&env, "pub").await, connect(&env, "all").await);
    check(&mut sub, r#"{"Subscribe":"ch"}"#, r#"{"Error":"Channel not found: ch"}"#).await;
    let created = r#"{"Success":"Command executed: CreateChannel(\"ch\")"}"#;
    check(&mut publisher, r#"{"CreateChannel":"ch"}"#, created).await;
    let twice = r#"{"Error":"Channel 'ch' is already registered"}"#;
    check(&mut publisher, r#"{"CreateChannel":"ch"}"#, twice).await;
    let subscribed = r#"{"Success":"Command executed: Subscribe(\"ch\")"}"#;
    check(&mut sub, r#"{"Subscribe":"ch"}"#, subscribed).await;
    let notify = r#"{"NotifyChannel":["ch",{"Text":"a"}]}"#;
    let notified = r#"{"Success":"Command executed: NotifyChannel(\"ch\", Text(\"a\"))"}"#;
    check(&mut publisher, notify, notified).await;
    assert_eq!(sub.text().await, r#"{"ChannelMessage":["ch",{"Text":"a"}]}"#);
    check(&mut sub, r#"{"CreateChannel":"x"}"#, r#"{"Error":"Permission denied: CreateChannel"}"#).await;

    check(&mut all, r#"{"Subscribe":"ch"}"#, subscribed).await;
    check(&mut all, r#"{"Subscribe":"ch"}"#, subscribed).await;
    let own = r#"{"ChannelMessage":["ch",{"Text":"self"}]}"#;
    check(&mut all, r#"{"NotifyChannel":["ch",{"Text":"self"}]}"#, own).await;
    assert_eq!(all.text().await, r#"{"Success":"Command executed: NotifyChannel(\"ch\", Text(\"self\"))"}"#);
    assert_eq!(sub.text().await, own);

    // JSON comes out as that system wrote it: keys sorted, numbers made new.
    let sent = r#"{"NotifyChannel":["ch",{"Json":{"b":1,"a":[true,null,1.50]}}]}"#;
    let answer = r#"{"Success":"Command executed: NotifyChannel(\"ch\", Json(Object {\"a\": Array [Bool(true), Null, Number(1.5)], \"b\": Number(1)}))"}"#;
    check(&mut publisher, sent, answer).await;
    let message = r#"{"ChannelMessage":["ch",{"Json":{"a":[true,null,1.5],"b":1}}]}"#;
    assert_eq!(sub.text().await, message);
    assert_eq!(all.text().await, message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_answered_as_before() {
    let env = TestEnv::start(LISTENERS).await;
    let (mut sub, mut publisher, mut all) =
        (connect(&env, "sub").await, connect(&env, "pub").await, connect(&env, "all").await);
    let text = r#"{"Text":"a"}"#;
    let notify = format!(r#"{{"NotifyChannel":["nope",{text}]}}"#);
    check(&mut all, &notify, r#"{"Error":"Channel not found: nope"}"#).await;
    check(&mut sub, &notify, r#"{"Error":"Permission denied: NotifyChannel"}"#).await;
    check(&mut publisher, r#"{"Subscribe":"ch"}"#, r#"{"Error":"Permission denied: Subscribe"}"#).await;
    for (sent, error) in [
        ("x", "expected value at line 1 column 1"),
        ("", "EOF while parsing a value at line 1 column 0"),
        (
            r#"{"Foo":1}"#,
            "unknown variant `Foo`, expected one of `CreateChannel`, `Subscribe`, `NotifyChannel` at line 1 column 6",
        ),
        (r#"{"Subscribe":1}"#, "invalid type: integer `1`, expected a string at line 1 column 14"),
        (r#"{"Subscribe":"ch","x":1}"#, "expected value at line 1 column 17"),
    ] {
        check(&mut all, sent, &json!({"Error": format!("Invalid message format: {error}")}).to_string()).await;
    }
    all.send_message(Message::binary(&b"x"[..])).await;
    assert_eq!(all.text().await, r#"{"Error":"Binary messages not supported"}"#);
    // Any string is a channel.
    check(&mut all, r#"{"CreateChannel":""}"#, r#"{"Success":"Command executed: CreateChannel(\"\")"}"#).await;
    all.close(1000, "bye").await;
    all.expect_close(1000, "bye").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_message_precedes_answer() {
    let env = TestEnv::start(LISTENERS).await;
    let mut all = connect(&env, "all").await;
    check(&mut all, r#"{"CreateChannel":"ch"}"#, r#"{"Success":"Command executed: CreateChannel(\"ch\")"}"#).await;
    let mut others = Vec::new();
    for _ in 0..100 {
        let mut other = connect(&env, "sub").await;
        check(&mut other, r#"{"Subscribe":"ch"}"#, r#"{"Success":"Command executed: Subscribe(\"ch\")"}"#).await;
        others.push(other);
    }
    check(&mut all, r#"{"Subscribe":"ch"}"#, r#"{"Success":"Command executed: Subscribe(\"ch\")"}"#).await;
    for n in 0..50 {
        all.feed(format!(r#"{{"NotifyChannel":["ch",{{"Text":"{n}"}}]}}"#)).await;
    }
    all.flush().await;
    for n in 0..50 {
        assert_eq!(all.text().await, format!(r#"{{"ChannelMessage":["ch",{{"Text":"{n}"}}]}}"#));
        let success = format!(r#"{{"Success":"Command executed: NotifyChannel(\"ch\", Text(\"{n}\"))"}}"#);
        assert_eq!(all.text().await, success);
    }
    for other in &mut others {
        for n in 0..50 {
            assert_eq!(other.text().await, format!(r#"{{"ChannelMessage":["ch",{{"Text":"{n}"}}]}}"#));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auth_tokens_are_checked() {
    let env = TestEnv::start(LISTENERS).await;
    let open = async |headers: &[(&str, &str)]| {
        let request = Ws::request(&env.gateway.authority("tokens"), "/", headers);
        Ws::open(env.gateway.address("tokens"), request).await
    };
    for headers in [
        &[][..],
        &[("sec-websocket-protocol", "other")],
        &[("sec-websocket-protocol", "first-toke")],
        &[("authorization", "Bearer first-token2")],
        &[("authorization", "Basic first-token")],
    ] {
        let refused = open(headers).await.err().expect("a refusal");
        assert_eq!(refused.refusal(), (401, "unauthenticated".into()), "{headers:?}");
    }
    // A browser needs its subprotocol chosen.
    let mut ws = open(&[("sec-websocket-protocol", "other, second-token")]).await.expect("an upgrade");
    assert_eq!(ws.answer.header("sec-websocket-protocol"), "second-token");
    check(&mut ws, r#"{"CreateChannel":"a"}"#, r#"{"Success":"Command executed: CreateChannel(\"a\")"}"#).await;
    let mut ws = open(&[("authorization", "Bearer first-token")]).await.expect("an upgrade");
    assert_eq!(ws.answer.header("sec-websocket-protocol"), "");
    check(&mut ws, r#"{"CreateChannel":"b"}"#, r#"{"Success":"Command executed: CreateChannel(\"b\")"}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_drops_messages_only() {
    let env = TestEnv::start(LISTENERS).await;
    let mut ws = connect(&env, "rate").await;
    for n in 0..6 {
        ws.feed(format!(r#"{{"CreateChannel":"{n}"}}"#)).await;
    }
    ws.flush().await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(ws.text().await);
    }
    assert_eq!(answers[0], r#"{"Success":"Command executed: CreateChannel(\"0\")"}"#);
    assert_eq!(answers[1], r#"{"Success":"Command executed: CreateChannel(\"1\")"}"#);
    assert!(answers[2..].iter().any(|answer| answer == r#"{"Error":"Rate limit exceeded"}"#), "{answers:?}");
    test_support::eventually("the rate to allow one more", async || {
        ws.send_text(r#"{"CreateChannel":"later"}"#).await;
        (ws.text().await == r#"{"Success":"Command executed: CreateChannel(\"later\")"}"#).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_message_closes_connection() {
    let env = TestEnv::start(LISTENERS).await;
    let mut ws = connect(&env, "small").await;
    let name = "x".repeat(100 - r#"{"CreateChannel":""}"#.len());
    let fits = format!(r#"{{"CreateChannel":"{name}"}}"#);
    assert_eq!(fits.len(), 100);
    check(&mut ws, &fits, &format!(r#"{{"Success":"Command executed: CreateChannel(\"{name}\")"}}"#)).await;
    ws.send_text(&format!("{fits} ")).await;
    ws.expect_close(1009, "message_too_big").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_shared_with_native_protocol() {
    let env = TestEnv::start(LISTENERS).await;
    let (mut all, mut alice) = (connect(&env, "all").await, env.subscriber().await);
    alice.subscribe("ch").await;
    check(&mut all, r#"{"Subscribe":"ch"}"#, r#"{"Success":"Command executed: Subscribe(\"ch\")"}"#).await;

    env.publish("ch", r#"{"b": 1.50}"#).await;
    assert_eq!(all.text().await, r#"{"ChannelMessage":["ch",{"Json":{"b": 1.50}}]}"#);
    assert_eq!(alice.expect("message").await["publisher"], "market-data");
    env.post("ch", "text/plain", "é\"".as_bytes()).await;
    assert_eq!(all.text().await, r#"{"ChannelMessage":["ch",{"Text":"é\""}]}"#);
    alice.expect("message").await;

    let notified = r#"{"ChannelMessage":["ch",{"Text":"hi"}]}"#;
    check(&mut all, r#"{"NotifyChannel":["ch",{"Text":"hi"}]}"#, notified).await;
    let message = alice.expect("message").await;
    assert_eq!((&message["data"], &message["offset"]), (&json!("hi"), &json!(3)));
    assert_eq!(message["publisher"], "tslm:all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restricted_channel_is_closed_to_tslm() {
    let env = TestEnv::start(LISTENERS).await;
    env.publish("secret", "1").await;
    let mut all = connect(&env, "all").await;
    check(&mut all, r#"{"Subscribe":"secret"}"#, r#"{"Error":"Permission denied: Subscribe"}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_publish_to_listed_channels() {
    let listener = |name: &str, channels: &str| {
        format!(
            "[listeners.{name}]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\nchannels = [{channels}]\n\
             default_endpoint_permissions = [\"Subscribe\", \"CreateChannel\", \"NotifyChannel\"]\n"
        )
    };
    let more = [
        listener("chat", "\"chat.*\""),
        listener("wide", "\"*\""),
        listener("own", "\"*\", \"prices.eth\""),
        "[channel_defaults]\nsubscribers = \"anyone\"\n".to_owned(),
    ];
    let publishers = |channels: &[&str]| TestPublisher::new().toml("market-data", channels);
    let (folder, issuer) = (TempDir::new(), TestIssuer::new(ISSUER));
    folder.write("sso.json", &issuer.jwks());
    let toml = TestEnv::toml(&publishers(&["prices.*"]), &more.concat());
    let gateway = TestGateway::start(&toml, &folder).await;
    let env = TestEnv::of(gateway, folder, TestPublisher::new(), issuer);
    let denied = |command: &str| format!(r#"{{"Error":"Permission denied: {command}"}}"#);
    for (listener, channel, is_allowed) in [
        ("chat", "chat.1", true),
        ("chat", "other", false),
        ("chat", "prices.btc", false),
        ("chat", "chat", false),
        ("wide", "other", true),
        ("wide", "prices.btc", false),
        ("own", "prices.btc", false),
        ("own", "prices.eth", true),
    ] {
        let mut ws = connect(&env, listener).await;
        for (command, sent) in [
            ("CreateChannel", format!(r#"{{"CreateChannel":"{channel}"}}"#)),
            ("NotifyChannel", format!(r#"{{"NotifyChannel":["{channel}",{{"Json":1}}]}}"#)),
        ] {
            ws.send_text(&sent).await;
            let answer = ws.text().await;
            assert_eq!(answer == denied(command), !is_allowed, "{listener} {channel}: {answer}");
        }
    }
    // A publisher that is added later has its channels for itself.
    let mut ws = connect(&env, "wide").await;
    check(
        &mut ws,
        r#"{"NotifyChannel":["other",{"Json":1}]}"#,
        r#"{"Success":"Command executed: NotifyChannel(\"other\", Json(Number(1)))"}"#,
    )
    .await;
    env.reload(&publishers(&["other"]), &more.concat());
    check(&mut ws, r#"{"NotifyChannel":["other",{"Json":1}]}"#, &denied("NotifyChannel")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restricting_reload_closes_connection() {
    let env = TestEnv::start(LISTENERS).await;
    let mut publisher = connect(&env, "pub").await;
    publisher.send_text(r#"{"CreateChannel":"news"}"#).await;
    publisher.text().await;
    let mut subscriber = connect(&env, "sub").await;
    subscriber.send_text(r#"{"Subscribe":"news"}"#).await;
    subscriber.text().await;
    let stricter = LISTENERS.replace(r#"match = "secret""#, r#"match = "*""#);
    env.reload(&env.publisher.toml("market-data", &["*"]), &stricter);
    subscriber.expect_close(4502, "forbidden").await;
}
