//! Random commands in every state of a connection. The seeds are fixed.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::node::{HealthySubscriber, Node, Setup};
use crate::ws::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RawWs, TEXT, frame};

/// Connections of each state.
const ROUNDS: usize = 60;

const TSLM: &str = "[listeners.tslm]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\nrate_limit_per_second = 50\n\
                    default_endpoint_permissions = [\"Subscribe\", \"CreateChannel\", \"NotifyChannel\"]\nchannels = [\"*\"]\n";

/// A JSON value that does not belong where it stands.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("9".repeat(400)),
        Just("0.1".to_owned()),
        Just(r#""\u0000\u001b[31m\u202e""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just(r#""open.fuzz""#.to_owned()),
        Just(r#""base64""#.to_owned()),
        Just(r#""open.*""#.to_owned()),
        Just(r#"{"epoch":"","offset":0}"#.to_owned()),
        Just(r#"{"epoch":"x","offset":18446744073709551615}"#.to_owned()),
        Just(r#"{"epoch":[],"offset":-1}"#.to_owned()),
        (1usize..60).prop_map(|depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth))),
        (1usize..30_000).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
        "\"[^\"\\\\\\x00-\\x1f]{0,40}\"",
        "\\PC{0,20}",
    ]
}

/// One object with members of our protocol, in any number and with any values.
fn object() -> impl Strategy<Value = String> {
    let kinds = ["hello", "subscribe", "unsubscribe", "refresh", "ping", "reply", "publish", "welcome", "", "message"];
    let names = ["type", "id", "channel", "token", "data", "encoding", "since", "backlog", "to", "__proto__", ""];
    let members = proptest::collection::vec((proptest::sample::select(names.to_vec()), value()), 0..6);
    (proptest::option::weighted(0.9, proptest::sample::select(kinds.to_vec())), members).prop_map(|(kind, members)| {
        let kind = kind.map(|kind| format!("\"type\":\"{kind}\""));
        let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", kind.into_iter().chain(members).collect::<Vec<_>>().join(","))
    })
}

/// A command of the dialect.
fn dialect() -> impl Strategy<Value = String> {
    let commands = ["Subscribe", "CreateChannel", "NotifyChannel", "Success", "subscribe"];
    (proptest::sample::select(commands.to_vec()), value(), value())
        .prop_map(|(command, one, other)| format!(r#"{{"{command}":[{one},{{"Json":{other}}}]}}"#))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![6 => object(), 2 => dialect(), 1 => value(), 1 => ("\\PC{0,9}", object()).prop_map(|(a, b)| a + &b)]
}

/// Bytes of one step of a hostile client.
fn step() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => text().prop_map(|text| frame(TEXT, text.as_bytes())),
        2 => text().prop_map(|text| {
            let bytes = text.as_bytes();
            let (one, other) = bytes.split_at(bytes.len() / 2);
            [frame(0x01, one), frame(PING, b"between"), frame(CONTINUATION, b""), frame(FIN, other)].concat()
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| frame(TEXT, &bytes)),
        1 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| frame(BINARY, &bytes)),
        1 => (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(first, all)| frame(first, &all)),
        1 => proptest::collection::vec(any::<u8>(), 0..80),
        1 => proptest::collection::vec(any::<u8>(), 0..140).prop_map(|bytes| frame(PONG, &bytes)),
        1 => proptest::collection::vec(any::<u8>(), 0..10).prop_map(|bytes| frame(CLOSE, &bytes)),
        1 => text().prop_map(|text| {
            let whole = frame(TEXT, text.as_bytes());
            whole[..whole.len() - whole.len() / 3].to_vec()
        }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BeforeHello,
    Anonymous,
    Subscribed,
    Authenticated,
    Publishing,
    Closing,
    Tslm,
}

impl State {
    const ALL: [Self; 7] = [
        Self::BeforeHello,
        Self::Anonymous,
        Self::Subscribed,
        Self::Authenticated,
        Self::Publishing,
        Self::Closing,
        Self::Tslm,
    ];

    async fn reach(self, node: &Node) -> RawWs {
        match self {
            Self::BeforeHello => node.connect().await,
            Self::Subscribed => node.subscriber("open.fuzz").await,
            Self::Publishing => node.publisher_ws().await,
            Self::Tslm => RawWs::open(node.address("tslm"), "/any", "").await.expect("an upgrade"),
            Self::Anonymous | Self::Closing => {
                let mut ws = node.connect().await;
                ws.hello().await;
                if self == Self::Closing {
                    ws.send(&frame(TEXT, &[0xff])).await;
                }
                ws
            }
            Self::Authenticated => {
                let token = node.issuer.token("mallory");
                let headers = format!("authorization: Bearer {token}\r\n");
                let mut ws = RawWs::open(node.public(), "/v1/subscribe", &headers).await.expect("an upgrade");
                assert_eq!(ws.json().await["principal"], "mallory");
                ws
            }
        }
    }
}

/// Everything that came back is an object of the protocol, and the connection ended with a code that is in its table.
async fn check(state: State, ws: &mut RawWs, steps: &[Vec<u8>]) {
    const CODES: [u16; 9] = [1000, 1002, 1003, 1007, 1009, 4004, 4500, 4501, 0];
    let end = loop {
        match ws.text().await {
            Ok(text) => {
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let known = ["type", "Success", "Error", "ChannelMessage"];
                assert!(known.iter().any(|key| value.get(key).is_some()), "{state:?}: {text}");
            }
            Err(end) => break end,
        }
    };
    // A Close of the client's own comes back with the client's own code.
    let own = steps.iter().any(|step| step.contains(&CLOSE));
    assert!(own || CODES.contains(&end.code()), "{state:?}: {end:?} after {steps:02x?}");
}

#[tokio::test]
async fn garbage_costs_one_connection() {
    let limits = "max_commands_per_second = 3\nmax_command_bytes = 40000";
    let node = Node::start(Setup { more: TSLM, limits, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let steps = proptest::collection::vec(step(), 1..30);
    let mut runner = TestRunner::deterministic();
    for _ in 0..ROUNDS {
        for state in State::ALL {
            let steps = steps.new_tree(&mut runner).unwrap().current();
            let mut ws = state.reach(&node).await;
            ws.send(&steps.concat()).await;
            // The client's side is closed, which ends any incomplete message.
            ws.send(&frame(CLOSE, &1000u16.to_be_bytes())).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut ws.stream).await;
            check(state, &mut ws, &steps).await;
        }
        healthy.check_served(&node).await;
    }
    node.await_metric("lastmile_connections", 1.0).await;
}

#[tokio::test]
async fn refused_command_keeps_session() {
    let node = Node::start(Setup { limits: "max_command_bytes = 1000000", ..Setup::default() }).await;
    let mut ws = node.subscriber("open.mine").await;
    let mut runner = TestRunner::deterministic();
    let objects = object();
    for _ in 0..300 {
        let object = objects.new_tree(&mut runner).unwrap().current();
        // Text that is no JSON may end the connection; another test covers it.
        if serde_json::from_str::<Value>(&object).is_err() {
            continue;
        }
        ws.send(&frame(TEXT, object.as_bytes())).await;
        assert!(ws.text().await.is_ok(), "the connection ended after {object}");
    }
}
