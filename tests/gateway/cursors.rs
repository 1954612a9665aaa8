//! Cursors: valid on every transport, for their channels and principal only.

use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{TestEnv, with_timeout};

const OPEN: &str = "[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 10000\n";

/// The same refusal from streams, by header and by query, and from polls.
async fn check_refused(env: &TestEnv, query: &str, cursor: &str, headers: &[(&str, &str)]) -> String {
    let with_cursor = format!("{query}&cursor={cursor}");
    let poll = env.try_poll(&with_cursor, headers).await;
    assert_eq!(poll.refusal(), (400, "cursor-invalid".into()), "{with_cursor}");
    let stream = env.try_events(&with_cursor, headers).await.err().expect("a refusal");
    let by_header = [headers, &[("last-event-id", cursor)]].concat();
    let resumed = env.try_events(query, &by_header).await.err().expect("a refusal");
    assert_eq!((stream.refusal(), &stream.json()), (resumed.refusal(), &poll.json()));
    assert!(!poll.text().contains(cursor) || cursor.len() < 3, "no echo: {poll:?}");
    poll.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_cursors_are_refused() {
    let env = TestEnv::start(OPEN).await;
    env.publish("a", "1").await;
    env.publish("b", "1").await;
    let cursor = env.poll("channel=a").await["cursor"].as_str().unwrap().to_owned();
    for bad in ["x", "AAAA", "%2e%2e", &cursor[1..], &cursor[..cursor.len() - 4], &format!("{cursor}AAAA")] {
        let detail = check_refused(&env, "channel=a", bad, &[]).await;
        assert!(detail.contains("malformed cursor"), "{bad}: {detail}");
    }
    let too_long = "A".repeat(9000);
    assert_eq!(
        env.try_poll(&format!("channel=a&cursor={too_long}"), &[]).await.refusal(),
        (400, "cursor-invalid".into())
    );
    assert!(check_refused(&env, "channel=b", &cursor, &[]).await.contains("other channels"));

    // Another person's, with a token or without.
    let (alice, bob) = (env.issuer.token("alice"), env.issuer.token("bob"));
    let (alice, bob) = (format!("Bearer {alice}"), format!("Bearer {bob}"));
    let (alice, bob) = ([("authorization", alice.as_str())], [("authorization", bob.as_str())]);
    let of_alice = env.try_poll("channel=a", &alice).await.json()["cursor"].as_str().unwrap().to_owned();
    for (cursor, headers) in [(&of_alice, &bob[..]), (&of_alice, &[]), (&cursor, &alice)] {
        assert!(check_refused(&env, "channel=a", cursor, headers).await.contains("another client"));
    }
    assert_eq!(env.try_poll(&format!("channel=a&wait=0&cursor={of_alice}"), &alice).await.status, 200);

    // From the future of the same epoch: written as the gateway would write it.
    use lastmile::protocol::{Cursor, Owner};
    let epoch = env.publish("a", "2").await["epoch"].as_str().unwrap().to_owned();
    let mut future = Cursor::new(Owner::ANONYMOUS);
    future.set("a", &epoch, 3);
    assert!(check_refused(&env, "channel=a", &future.to_string(), &[]).await.contains("ahead"));
    assert_eq!(env.metric("lastmile_subscriptions").await, 0.0);
    // Of another epoch nothing is known but that something is missing.
    future.set("a", "another", 3);
    assert_eq!(env.poll(&format!("channel=a&cursor={future}")).await["recovered"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursor_outlives_channel_change() {
    let env = TestEnv::start(OPEN).await;
    let both = env.poll("channel=a&channel=b").await["cursor"].as_str().unwrap().to_owned();
    for channel in ["a", "b", "c"] {
        env.publish(channel, "1").await;
    }
    // One fewer, one more: the new one begins live.
    let answer = env.poll(&format!("channel=b&channel=c&cursor={both}")).await;
    assert_eq!(answer["recovered"], true);
    let channels: Vec<_> = answer["messages"].as_array().unwrap().iter().map(|one| one["channel"].clone()).collect();
    assert_eq!(channels, [json!("b")]);
    env.publish("c", "2").await;
    let answer = env.poll(&format!("channel=b&channel=c&cursor={}", answer["cursor"].as_str().unwrap())).await;
    assert_eq!((&answer["messages"][0]["channel"], &answer["messages"][0]["data"]), (&json!("c"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnect_header_beats_address() {
    let env = TestEnv::start(OPEN).await;
    let old = env.poll("channel=a").await["cursor"].as_str().unwrap().to_owned();
    env.publish("a", "1").await;
    let new = env.poll(&format!("channel=a&cursor={old}")).await["cursor"].as_str().unwrap().to_owned();
    env.publish("a", "2").await;
    for query in [format!("channel=a&cursor={old}"), "channel=a&backlog=9".into()] {
        let mut events = env.try_events(&query, &[("last-event-id", &new)]).await.expect("a stream");
        events.expect("subscribed").await;
        assert_eq!(events.expect("message").await.json()["data"], 2);
    }
}

/// The position at which the next transport resumes.
#[derive(Clone, Debug)]
enum Place {
    Cursor(String),
    /// The last publication that was seen.
    Since(Value),
}

impl Place {
    fn query(&self, channel: &str) -> String {
        match self {
            Self::Cursor(cursor) => format!("channel={channel}&cursor={cursor}"),
            Self::Since(last) => format!("channel={channel}&since={}", last["message_id"].as_str().unwrap()),
        }
    }
}

/// One leg: a transport, and how many messages are read from it before it is dropped.
async fn leg(env: &TestEnv, channel: &str, transport: u8, count: usize, place: &Place, seen: &mut Vec<i64>) -> Place {
    let mut read = |frame: &Value| {
        assert_eq!(frame["type"], "message", "{frame}");
        seen.push(frame["data"].as_i64().unwrap());
    };
    let mut place = place.clone();
    match (transport, &place) {
        (0, Place::Since(last)) => {
            let mut ws = env.anonymous().await;
            let since = json!({"epoch": last["epoch"], "offset": last["offset"]});
            assert_eq!(ws.subscribe_with(channel, json!({"since": since})).await["recovered"], true);
            for _ in 0..count {
                let frame = ws.json().await;
                read(&frame);
                place = Place::Since(frame);
            }
        }
        (1, _) => {
            let mut events = env.events(&place.query(channel)).await;
            assert_eq!(events.expect("subscribed").await.json()["recovered"], true);
            for _ in 0..count {
                let event = events.expect("message").await;
                read(&event.json());
                place = Place::Cursor(event.id);
            }
        }
        (2, _) => {
            let mut lines = env.lines(&place.query(channel)).await;
            let (mut pending, mut taken) = (Vec::new(), 0);
            while taken < count {
                let line = lines.line().await.unwrap();
                match line["type"].as_str().unwrap() {
                    "message" => {
                        pending.push(line);
                        taken += 1;
                    }
                    "cursor" => {
                        pending.drain(..).for_each(|frame| read(&frame));
                        place = Place::Cursor(line["cursor"].as_str().unwrap().to_owned());
                    }
                    _ => assert_eq!(line["recovered"], true, "{line}"),
                }
            }
            // The last lines may have come without the cursor behind them: their places do as well.
            if let Some(last) = pending.last() {
                place = Place::Since(last.clone());
                pending.iter().for_each(read);
            }
        }
        _ => {
            let answer = env.poll(&format!("{}&wait=1", place.query(channel))).await;
            assert_eq!(answer["recovered"], true);
            answer["messages"].as_array().unwrap().iter().for_each(read);
            place = Place::Cursor(answer["cursor"].as_str().unwrap().to_owned());
        }
    }
    place
}

#[test]
fn transport_switches_keep_order() {
    const MESSAGES: i64 = 300;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let env = runtime.block_on(TestEnv::start(OPEN));
    let run = std::cell::Cell::new(0);
    let legs = proptest::collection::vec((0u8..4, 0usize..20), 10..40);
    proptest!(ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..Default::default() }, |(legs in legs)| {
        run.set(run.get() + 1);
        let channel = format!("run-{}", run.get());
        runtime.block_on(async {
            let first = env.poll(&format!("channel={channel}")).await;
            let mut place = Place::Cursor(first["cursor"].as_str().unwrap().to_owned());
            let mut publisher = env.publisher_ws().await;
            let (mut seen, mut legs) = (Vec::new(), legs.iter().cycle());
            let publishing = async {
                for n in 0..MESSAGES {
                    publisher.send(json!({"type": "publish", "channel": channel, "data": n})).await;
                    publisher.expect("published").await;
                }
            };
            let reading = async {
                while (seen.len() as i64) < MESSAGES {
                    let (transport, count) = *legs.next().unwrap();
                    let left = MESSAGES as usize - seen.len();
                    place = leg(&env, &channel, transport, count.min(left), &place, &mut seen).await;
                }
            };
            with_timeout("all messages", async { tokio::join!(publishing, reading) }).await;
            assert_eq!(seen, (0..MESSAGES).collect::<Vec<_>>());
        });
    });
}
