//! Connections that break after a random number of bytes.

use std::sync::atomic::Ordering;

use lastmile_client::{Client, Event, Publisher, StreamOptions, SubscribeOptions, TokenSource};

use crate::support::{TestGateway, start_cutting_proxy, with_fast_retries, with_timeout};

const MESSAGES: u32 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnects_deliver_once_in_order() {
    let gateway = TestGateway::start();
    let (public, public_cuts) = start_cutting_proxy(&gateway.public, 20_000).await;
    let (publish, publish_cuts) = gateway.start_publish_proxy(10_000);
    let client = Client::connect(with_fast_retries(&public), TokenSource::anonymous()).unwrap();
    let mut events = client.subscribe("open.cuts", SubscribeOptions::default()).await.unwrap().events();
    assert!(matches!(with_timeout("subscribed", events.next()).await, Some(Ok(Event::Subscribed { .. }))));

    let publisher = Publisher::connect(with_fast_retries(&publish), gateway.key()).unwrap();
    let publishing = tokio::spawn(async move {
        for n in 0..MESSAGES / 4 {
            // Single publications and batches.
            publisher.publish("open.cuts", &(n * 4)).await.unwrap();
            let answers = publisher.publish_many("open.cuts", n * 4 + 1..n * 4 + 4).await.unwrap();
            assert!(answers.iter().all(Result::is_ok));
        }
    });
    let mut expected = 0;
    while expected < MESSAGES {
        match with_timeout("the next", events.next()).await.unwrap().unwrap() {
            Event::Publication(publication) => {
                assert_eq!(publication.json::<u32>().unwrap(), expected);
                assert_eq!(publication.position.offset, u64::from(expected) + 1);
                expected += 1;
            }
            Event::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
    with_timeout("the publisher", publishing).await.unwrap();
    let cuts = [public_cuts, publish_cuts].map(|cuts| cuts.load(Ordering::Relaxed));
    assert!(cuts.iter().all(|cuts| *cuts > 10), "{cuts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_resends_or_reports_unknown_outcome() {
    let gateway = TestGateway::start();
    let (publish, cuts) = gateway.start_publish_proxy(20_000);
    let publisher = Publisher::connect(with_fast_retries(&publish), gateway.key()).unwrap();
    for resend in [true, false] {
        let stream = publisher.stream(StreamOptions { window: 20, resend }).await.unwrap();
        let channel = format!("open.{resend}");
        let mut waiting = Vec::new();
        for n in 0..MESSAGES {
            waiting.push(with_timeout("window space", stream.publish(&channel, &n)).await.unwrap());
        }
        with_timeout("the flush", stream.close()).await.unwrap();
        let mut unknown = Vec::new();
        for (n, answer) in waiting.into_iter().enumerate() {
            match answer.await {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!((&*error.code, error.temporary, resend), ("connection_lost", true, false));
                    unknown.push(n as u32);
                }
            }
        }
        let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
        let options = SubscribeOptions { backlog: 5000, ..Default::default() };
        let mut subscription = client.subscribe(&channel, options).await.unwrap();
        // Every acknowledged message is there; first deliveries are in order.
        let mut expected = 0;
        while expected < MESSAGES {
            if unknown.contains(&expected) {
                expected += 1;
                continue;
            }
            let n: u32 = with_timeout("the next", subscription.next()).await.unwrap().unwrap().json().unwrap();
            assert!(n <= expected || unknown.contains(&n), "{n} before {expected}");
            expected += u32::from(n == expected);
        }
    }
    assert!(cuts.load(Ordering::Relaxed) > 5, "{cuts:?}");
}
