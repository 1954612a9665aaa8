//! Tests of native rooms: secrets, codes, resumed seats.

use super::*;

#[test]
fn absent_full_and_wrong_look_the_same() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let opened = rooms.open(OpenOptions::default(), None, now).unwrap();
    let join = |room: RoomId, credential: Credential<'_>| {
        rooms.join_native(Some(room), credential, Client::new().request(), at).err()
    };
    let absent = RoomId::from([9; 16]);
    for credential in
        [Credential::Secret("wrong"), Credential::Code("123456"), Credential::Resume { secret: "wrong", seen: None }]
    {
        assert_eq!(join(absent, credential), Some(CloseReason::UnknownRoom));
        assert_eq!(join(opened.room, credential), Some(CloseReason::UnknownRoom));
    }
    assert_ne!(opened.room.to_string(), opened.join_secret);
    let mut both = [Client::new(), Client::new()];
    for client in &mut both {
        let credential = Credential::Secret(&opened.join_secret);
        client.take(rooms.join_native(Some(opened.room), credential, client.request(), at)).unwrap();
    }
    assert_eq!(join(opened.room, Credential::Secret("wrong")), Some(CloseReason::UnknownRoom));
    assert_eq!(join(opened.room, Credential::Secret(&opened.join_secret)), Some(CloseReason::ConnectionLimit));
}

#[test]
fn ids_are_random_and_rooms_limited() {
    let rooms = Rooms::new(RoomLimits { max_rooms: 300, max_rooms_per_address: 100, ..limits() });
    let now = Now::read();
    let address = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
    let open = |n| rooms.open(OpenOptions::default(), address(n), now);
    let mut seen = std::collections::HashSet::new();
    for n in 0..3 {
        for _ in 0..100 {
            let opened = open(n).unwrap();
            assert!(seen.insert(opened.room.to_string()) && seen.insert(opened.join_secret.clone()));
            assert_eq!(opened.join_secret.len(), 43);
        }
        assert!(open(n).is_err());
    }
    assert!(open(9).is_err());
    rooms.sweep(now.monotonic + secs(300));
    assert_eq!(rooms.count(), 0);
    assert!(rooms.0.context.quota.is_empty());
    assert!(open(9).is_ok());
}

#[test]
fn ipv6_site_has_ten_shares() {
    let rooms = Rooms::new(RoomLimits { max_rooms: 1_000, max_rooms_per_address: 10, ..limits() });
    let open =
        |address: String| rooms.open(OpenOptions::default(), Some(address.parse().unwrap()), Now::read()).is_ok();
    let opened = (0..2_000).filter(|n| open(format!("2001:db8:1:{n:x}::"))).count();
    assert_eq!(opened, 100);
    assert!(open("2001:db8:2::".to_owned()) && open("192.0.2.1".to_owned()));
}

#[test]
fn code_is_single_use_short_lived_few_tries() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let options = OpenOptions { code: Some(CodeFormat::Words), ..OpenOptions::default() };
    let open = || rooms.open(options, None, now).unwrap();
    let by_code =
        |code: &str, at: Instant| rooms.join_native(None, Credential::Code(code), Client::new().request(), at);

    let first = open();
    let code = first.code.clone().unwrap();
    let seat = by_code(&code.to_uppercase().replace('-', " "), at).expect("a seat");
    assert_eq!(by_code(&code, at).err(), Some(CloseReason::UnknownRoom), "the code was used");

    let second = open();
    let code = second.code.clone().unwrap();
    assert_eq!(by_code(&code, at + secs(120)).err(), Some(CloseReason::UnknownRoom), "the code is expired");

    let third = open();
    let code = third.code.clone().unwrap();
    for _ in 0..3 {
        let wrong = rooms.join_native(Some(third.room), Credential::Code("a-b-c"), Client::new().request(), at);
        assert_eq!(wrong.err(), Some(CloseReason::UnknownRoom));
    }
    assert_eq!(by_code(&code, at).err(), Some(CloseReason::UnknownRoom), "too many wrong codes");

    let fourth = open();
    let join =
        || rooms.join_native(Some(fourth.room), Credential::Secret(&fourth.join_secret), Client::new().request(), at);
    let _both = (join().expect("a seat"), join().expect("a seat"));
    assert_eq!(
        by_code(&fourth.code.clone().unwrap(), at).err(),
        Some(CloseReason::UnknownRoom),
        "both seats are taken"
    );
    let _fifth = open();
    drop(seat);
    rooms.sweep(at + secs(120));
    assert_eq!(rooms.0.context.codes.lock().count(), 0);
}

#[test]
fn resume_restores_seat_and_messages() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let opened = rooms.open(OpenOptions::default(), None, now).unwrap();
    let join = |client: &mut Client, credential: Credential<'_>| {
        let joined = rooms.join_native(Some(opened.room), credential, client.request(), at);
        client.take(joined)
    };
    let (mut a, mut b) = (Client::new(), Client::new());
    join(&mut a, Credential::Secret(&opened.join_secret)).unwrap();
    join(&mut b, Credential::Secret(&opened.join_secret)).unwrap();
    let joined = b.received_json().remove(0);
    let resume = joined["resume"].as_str().unwrap().to_owned();
    assert_eq!(
        (&joined["type"], &joined["peer"], &joined["peers"][0]["peer"]),
        (&"joined".into(), &"p2".into(), &"p1".into())
    );
    a.received();
    a.send("1", at);
    // The connection is lost, with the frames on the way.
    b.seat = None;
    assert_eq!(a.received_json()[0], serde_json::json!({"type": "peer_left", "peer": "p2", "reason": "away"}));
    assert_eq!((a.send("2", at), a.send("3", at)), (Relayed::Sent, Relayed::Sent));
    assert_eq!(
        join(&mut Client::new(), Credential::Resume { secret: "p2", seen: None }),
        Err(CloseReason::UnknownRoom)
    );
    let mut again = Client::at([198, 51, 100, 7]);
    join(&mut again, Credential::Resume { secret: &resume, seen: Some(0) }).unwrap();
    let received = again.received();
    assert!(received[0].contains(r#""recovered":true"#), "{received:?}");
    assert_eq!(received[1..], ["1", "2", "3"]);
    assert_eq!(a.received_json()[0]["resumed"], true);
    // Another connection takes over the seat; the earlier one is closed and cannot send.
    let mut third = Client::new();
    join(&mut third, Credential::Resume { secret: &resume, seen: None }).unwrap();
    assert_eq!(again.received(), ["Close 4508"]);
    assert_eq!(again.send("stolen?", at), Relayed::Ended);
    drop(again);
    assert_eq!(third.received().len(), 1);
    assert_eq!(third.send("here", at), Relayed::Sent);
    assert_eq!(a.received().last().unwrap(), "here");
    // More messages than are retained.
    third.seat = None;
    (0..5).for_each(|_| assert_eq!(a.send("x", at), Relayed::Sent));
    let mut late = Client::new();
    join(&mut late, Credential::Resume { secret: &resume, seen: None }).unwrap();
    let received = late.received();
    assert!(received[0].contains(r#""recovered":false"#) && received.len() == 5, "{received:?}");
    // A seat that is not resumed is free again.
    late.seat = None;
    a.received();
    rooms.sweep(at);
    rooms.sweep(at + secs(30));
    assert_eq!(a.received_json(), [serde_json::json!({"type": "peer_left", "peer": "p2", "reason": "timeout"})]);
    assert_eq!(
        join(&mut Client::new(), Credential::Resume { secret: &resume, seen: None }),
        Err(CloseReason::UnknownRoom)
    );
    join(&mut Client::new(), Credential::Secret(&opened.join_secret)).unwrap();
}
