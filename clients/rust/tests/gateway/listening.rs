//! Subscriptions: who may, what is told, how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lastmile_client::{Client, Error, Event, GapReason, Position, Publisher, State, SubscribeOptions, TokenSource};

use crate::support::{TestGateway, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_for_tokens_opens_with_one_and_is_refused_without() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let client = Client::connect(&gateway.public, TokenSource::fixed(gateway.token("alice", "1h"))).unwrap();
    let mut members = client.subscribe("members.news", SubscribeOptions::default()).await.unwrap().events();
    let subscribed = within("subscribed", members.next()).await.unwrap().unwrap();
    assert!(matches!(subscribed, Event::Subscribed { .. }), "{subscribed:?}");
    assert_eq!(*client.state().borrow(), State::Connected);
    publisher.publish("members.news", &1).await.unwrap();
    assert!(matches!(within("it", members.next()).await, Some(Ok(Event::Publication(_)))));
    let again = client.subscribe("members.news", SubscribeOptions::default()).await.unwrap_err();
    assert_eq!(again.code, "already_subscribed");
    // Left, and come back to.
    drop(members);
    let mut members =
        client.subscribe("members.news", SubscribeOptions { backlog: 1, ..Default::default() }).await.unwrap();
    assert_eq!(within("it", members.next()).await.unwrap().unwrap().json::<u32>().unwrap(), 1);

    let nobody = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let mut closed = nobody.subscribe("members.news", SubscribeOptions::default()).await.unwrap();
    let error = within("the refusal", closed.next()).await.unwrap().unwrap_err();
    assert!(!error.temporary && error.code != "connection_lost", "{error:?}");
    assert!(closed.next().await.is_none());
    // The connection stays.
    let mut open = nobody.subscribe("open.x", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(within("subscribed", open.next()).await, Some(Ok(Event::Subscribed { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_ends_the_client_and_so_does_a_source_that_gives_up() {
    let gateway = TestGateway::start();
    let client = Client::connect(&gateway.public, TokenSource::fixed("nonsense")).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    let error = within("the end", subscription.next()).await.unwrap().unwrap_err();
    assert_eq!((&*error.code, error.status), ("unauthenticated", Some(4501)));
    let error = within("the end", client.subscribe("open.y", SubscribeOptions::default())).await.unwrap_err();
    assert_eq!(error.code, "unauthenticated");
    assert!(matches!(&*client.state().borrow(), State::Failed(_)));

    let source = TokenSource::function(async || Err(Error::new("signed_out", "nobody is there")));
    let client = Client::connect(&gateway.public, source).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    assert_eq!(within("the end", subscription.next()).await.unwrap().unwrap_err().code, "signed_out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_before_it_runs_out() {
    let gateway = TestGateway::start();
    // Made before, because that takes a while on a busy machine.
    let later = gateway.token("alice", "1h");
    let first = gateway.token("alice", "8s");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let source = TokenSource::function(move || {
        let token = if count.fetch_add(1, Ordering::SeqCst) == 0 { first.clone() } else { later.clone() };
        async move { Ok(token) }
    });
    let client = Client::connect(&gateway.public, source).unwrap();
    let mut events = client.subscribe("members.x", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(within("subscribed", events.next()).await, Some(Ok(Event::Subscribed { .. }))));
    let mut state = client.state();
    state.mark_unchanged();
    // Over the end of the first token the connection stays as it is.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert!(!state.has_changed().unwrap(), "{:?}", state.borrow());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_goes_on_behind_a_position_and_is_told_what_is_lost() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let first = publisher.publish("short.x", &1).await.unwrap();
    for n in 2..=10 {
        publisher.publish("short.x", &n).await.unwrap();
    }
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let since = |position: Position| SubscribeOptions { since: Some(position), ..Default::default() };
    let mut events = client.subscribe("short.x", since(first.position.clone())).await.unwrap().events();
    let mut next = async || within("an event", events.next()).await.unwrap().unwrap();
    assert!(
        matches!(next().await, Event::Gap(gap) if gap.reason == GapReason::HistoryLost && gap.after == first.position)
    );
    assert!(matches!(next().await, Event::Subscribed { recovered: false, .. }));
    for n in 8..=10 {
        assert!(
            matches!(next().await, Event::Publication(p) if p.position.offset == n && p.json::<u64>().unwrap() == n)
        );
    }
    let position = events.position().unwrap().clone();
    drop(events);
    let mut events = client.subscribe("short.x", since(position)).await.unwrap().events();
    assert!(matches!(within("it", events.next()).await, Some(Ok(Event::Subscribed { recovered: true, .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_pauses_and_misses_nothing_that_the_backlog_has() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let options = SubscribeOptions { buffer: 10, ..Default::default() };
    let mut slow = client.subscribe("open.slow", options).await.unwrap().events();
    assert!(matches!(within("it", slow.next()).await, Some(Ok(Event::Subscribed { .. }))));
    for batch in 0..4 {
        publisher.publish_many("open.slow", batch * 500..(batch + 1) * 500).await.unwrap();
    }
    let mut expected = 0;
    while expected < 2000 {
        match within("the next", slow.next()).await.unwrap().unwrap() {
            Event::Publication(publication) => {
                assert_eq!(publication.json::<u32>().unwrap(), expected);
                expected += 1;
            }
            Event::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_subscriptions_without_an_error() {
    let gateway = TestGateway::start();
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    within("the end", client.close()).await;
    assert!(within("the end", subscription.next()).await.is_none());
    assert_eq!(*client.state().borrow(), State::Closed);
    assert_eq!(client.reply("open.x", "m-1", &1).await.unwrap_err().code, "closed");
}
