//! Rooms: short codes, messages, resumed seats, the end.

use std::sync::atomic::Ordering;

use lastmile_client::{CodeFormat, Room, RoomEvent, RoomOptions, TokenSource};

use crate::support::{TestGateway, start_cutting_proxy, with_fast_retries, with_timeout};

/// More than the limit of the breaking proxy, in messages of about 100 bytes.
const MESSAGES: u32 = 300;

async fn next(room: &mut Room) -> RoomEvent {
    with_timeout("an event", room.next()).await.unwrap().unwrap()
}

/// Opens a room by `url`. Returns its code.
async fn open(url: &str) -> (Room, String) {
    let options = RoomOptions::with_code(CodeFormat::Digits);
    let mut room = Room::open(with_fast_retries(url), TokenSource::anonymous(), &options).unwrap();
    let RoomEvent::Opened { code: Some(code), .. } = next(&mut room).await else { panic!("not opened") };
    assert!(matches!(next(&mut room).await, RoomEvent::Joined { peers, .. } if peers.is_empty()));
    (room, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_exchange_messages_and_leave() {
    let gateway = TestGateway::start();
    let (mut a, code) = open(&gateway.public).await;
    let mut b = Room::join_with_code(&gateway.public, TokenSource::anonymous(), &code).unwrap();
    assert!(matches!(next(&mut b).await, RoomEvent::Joined { peers, .. } if peers.len() == 1));
    assert!(matches!(next(&mut a).await, RoomEvent::PeerJoined(_)));
    a.send("hello").await.unwrap();
    assert!(matches!(next(&mut b).await, RoomEvent::Message(message) if message.data.get() == r#""hello""#));
    // A queued message is sent before the seat is given up.
    b.send(&7).await.unwrap();
    with_timeout("the end", b.leave()).await;
    assert!(matches!(next(&mut a).await, RoomEvent::Message(message) if message.data.get() == "7"));
    assert!(matches!(next(&mut a).await, RoomEvent::PeerLeft { reason, .. } if reason == "left"));
    let mut late = Room::join_with_code(&gateway.public, TokenSource::anonymous(), &code).unwrap();
    let error = with_timeout("the refusal", late.next()).await.unwrap().unwrap_err();
    assert_eq!((&*error.code, error.status), ("unknown_room", Some(4511)));
    assert!(late.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connection_resumes_seat() {
    let gateway = TestGateway::start();
    let (mut a, code) = open(&gateway.public).await;
    let (proxy, breaks) = start_cutting_proxy(&gateway.public, 2_000).await;
    let mut b = Room::join_with_code(with_fast_retries(&proxy), TokenSource::anonymous(), &code).unwrap();
    let sending = tokio::spawn(async move {
        while !matches!(next(&mut a).await, RoomEvent::PeerJoined(_)) {}
        for n in 0..MESSAGES {
            a.send(&n).await.unwrap();
        }
        a
    });
    let mut expected = 0;
    while expected < MESSAGES {
        match next(&mut b).await {
            RoomEvent::Message(message) => {
                assert_eq!(message.data.get(), expected.to_string());
                expected += 1;
            }
            RoomEvent::Joined { recovered, .. } => assert_ne!(recovered, Some(false)),
            _ => {}
        }
    }
    drop(with_timeout("the sender", sending).await.unwrap());
    assert!(breaks.load(Ordering::Relaxed) > 2, "{breaks:?}");
}
