//! Subscriptions: authorization, gaps, backpressure, end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lastmile_client::{Client, Error, Event, GapReason, Position, Publisher, State, SubscribeOptions, TokenSource};

use crate::support::{TestGateway, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_grants_restricted_channel() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let client = Client::connect(&gateway.public, TokenSource::fixed(gateway.token("alice", "1h"))).unwrap();
    let mut members = client.subscribe("members.news", SubscribeOptions::default()).await.unwrap().events();
    let subscribed = with_timeout("subscribed", members.next()).await.unwrap().unwrap();
    assert!(matches!(subscribed, Event::Subscribed { .. }), "{subscribed:?}");
    assert_eq!(*client.state().borrow(), State::Connected);
    publisher.publish("members.news", &1).await.unwrap();
    assert!(matches!(with_timeout("an event", members.next()).await, Some(Ok(Event::Publication(_)))));
    let again = client.subscribe("members.news", SubscribeOptions::default()).await.unwrap_err();
    assert_eq!(again.code, "already_subscribed");
    // A dropped subscription can be opened again.
    drop(members);
    let mut members =
        client.subscribe("members.news", SubscribeOptions { backlog: 1, ..Default::default() }).await.unwrap();
    assert_eq!(with_timeout("an event", members.next()).await.unwrap().unwrap().json::<u32>().unwrap(), 1);

    let anonymous = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let mut closed = anonymous.subscribe("members.news", SubscribeOptions::default()).await.unwrap();
    let error = with_timeout("the refusal", closed.next()).await.unwrap().unwrap_err();
    assert!(!error.temporary && error.code != "connection_lost", "{error:?}");
    assert!(closed.next().await.is_none());
    // The refusal does not close the connection.
    let mut open = anonymous.subscribe("open.x", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(with_timeout("subscribed", open.next()).await, Some(Ok(Event::Subscribed { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_token_ends_client() {
    let gateway = TestGateway::start();
    let client = Client::connect(&gateway.public, TokenSource::fixed("nonsense")).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    let error = with_timeout("the end", subscription.next()).await.unwrap().unwrap_err();
    assert_eq!((&*error.code, error.status), ("unauthenticated", Some(4501)));
    let error = with_timeout("the end", client.subscribe("open.y", SubscribeOptions::default())).await.unwrap_err();
    assert_eq!(error.code, "unauthenticated");
    assert!(matches!(&*client.state().borrow(), State::Failed(_)));

    let source = TokenSource::function(async || Err(Error::new("signed_out", "signed out")));
    let client = Client::connect(&gateway.public, source).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    assert_eq!(with_timeout("the end", subscription.next()).await.unwrap().unwrap_err().code, "signed_out");
}

/// A token function that counts its calls; `answer` gets the number of the call.
fn counted(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> (TokenSource, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let source = TokenSource::function(move || {
        let token = answer(count.fetch_add(1, Ordering::SeqCst) + 1);
        async move { Ok(token) }
    });
    (source, calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_token_is_asked_for_again() {
    let gateway = TestGateway::start();
    let good = gateway.token("alice", "1h");
    let (source, calls) = counted(move |call| if call < 3 { "<!doctype html>".to_owned() } else { good.clone() });
    let client = Client::connect(&gateway.public, source).unwrap();
    let mut events = client.subscribe("members.x", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(with_timeout("subscribed", events.next()).await, Some(Ok(Event::Subscribed { .. }))));
    assert_eq!(calls.load(Ordering::SeqCst), 3);

    let (source, calls) = counted(|_| "<!doctype html>".to_owned());
    let client = Client::connect(&gateway.public, source).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    assert_eq!(with_timeout("the end", subscription.next()).await.unwrap().unwrap_err().code, "unauthenticated");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_is_refreshed_before_expiry() {
    let gateway = TestGateway::start();
    // Made first, because it takes a while on a busy machine.
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
    assert!(matches!(with_timeout("subscribed", events.next()).await, Some(Ok(Event::Subscribed { .. }))));
    let mut state = client.state();
    state.mark_unchanged();
    // The connection survives the expiry of the first token.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert!(!state.has_changed().unwrap(), "{:?}", state.borrow());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_reports_gap() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let first = publisher.publish("short.x", &1).await.unwrap();
    for n in 2..=10 {
        publisher.publish("short.x", &n).await.unwrap();
    }
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let since = |position: Position| SubscribeOptions { since: Some(position), ..Default::default() };
    let mut events = client.subscribe("short.x", since(first.position.clone())).await.unwrap().events();
    let mut next = async || with_timeout("an event", events.next()).await.unwrap().unwrap();
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
    assert!(matches!(
        with_timeout("an event", events.next()).await,
        Some(Ok(Event::Subscribed { recovered: true, .. }))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_pauses_without_loss() {
    let gateway = TestGateway::start();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let options = SubscribeOptions { buffer: 10, ..Default::default() };
    let mut slow = client.subscribe("open.slow", options).await.unwrap().events();
    assert!(matches!(with_timeout("an event", slow.next()).await, Some(Ok(Event::Subscribed { .. }))));
    for batch in 0..4 {
        publisher.publish_many("open.slow", batch * 500..(batch + 1) * 500).await.unwrap();
    }
    let mut expected = 0;
    while expected < 2000 {
        match with_timeout("the next", slow.next()).await.unwrap().unwrap() {
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
async fn close_ends_subscriptions() {
    let gateway = TestGateway::start();
    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let mut subscription = client.subscribe("open.x", SubscribeOptions::default()).await.unwrap();
    with_timeout("the end", client.close()).await;
    assert!(with_timeout("the end", subscription.next()).await.is_none());
    assert_eq!(*client.state().borrow(), State::Closed);
    assert_eq!(client.reply("open.x", "m-1", &1).await.unwrap_err().code, "closed");
}
