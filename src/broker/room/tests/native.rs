//! Rooms of our own form: secrets, codes, and seats that are given back.

use super::*;

#[test]
fn t_p1_absent_full_and_wrong_look_the_same_without_the_secret() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let opened = rooms.open(OpenOptions::default(), None, now).unwrap();
    let enter =
        |room: RoomId, claim: Credential<'_>| rooms.join_native(Some(room), claim, Client::new().joiner(), at).err();
    let absent = RoomId::from([9; 16]);
    for claim in
        [Credential::Secret("wrong"), Credential::Code("123456"), Credential::Resume { secret: "wrong", seen: None }]
    {
        assert_eq!(enter(absent, claim), Some(CloseReason::UnknownRoom));
        assert_eq!(enter(opened.room, claim), Some(CloseReason::UnknownRoom));
    }
    assert_ne!(opened.room.to_string(), opened.join_secret);
    let mut both = [Client::new(), Client::new()];
    for client in &mut both {
        let claim = Credential::Secret(&opened.join_secret);
        client.take(rooms.join_native(Some(opened.room), claim, client.joiner(), at)).unwrap();
    }
    assert_eq!(enter(opened.room, Credential::Secret("wrong")), Some(CloseReason::UnknownRoom));
    assert_eq!(enter(opened.room, Credential::Secret(&opened.join_secret)), Some(CloseReason::ConnectionLimit));
}

#[test]
fn t_p2_ids_and_secrets_are_random_and_rooms_are_capped() {
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
    assert_eq!(rooms.0.context.quota.addresses(), 0);
    assert!(open(9).is_ok());
}

#[test]
fn t_p4_a_code_is_good_for_one_pair_a_short_time_and_few_tries() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let options = OpenOptions { code: Some(CodeFormat::Words), ..OpenOptions::default() };
    let open = || rooms.open(options, None, now).unwrap();
    let by_code = |code: &str, at: Instant| rooms.join_native(None, Credential::Code(code), Client::new().joiner(), at);

    let first = open();
    let code = first.code.clone().unwrap();
    let seat = by_code(&code.to_uppercase().replace('-', " "), at).expect("a seat");
    assert_eq!(by_code(&code, at).err(), Some(CloseReason::UnknownRoom), "it was used");

    let second = open();
    let code = second.code.clone().unwrap();
    assert_eq!(by_code(&code, at + secs(120)).err(), Some(CloseReason::UnknownRoom), "it is too old");

    let third = open();
    let code = third.code.clone().unwrap();
    for _ in 0..3 {
        let wrong = rooms.join_native(Some(third.room), Credential::Code("a-b-c"), Client::new().joiner(), at);
        assert_eq!(wrong.err(), Some(CloseReason::UnknownRoom));
    }
    assert_eq!(by_code(&code, at).err(), Some(CloseReason::UnknownRoom), "it was guessed at too often");

    let fourth = open();
    let enter =
        || rooms.join_native(Some(fourth.room), Credential::Secret(&fourth.join_secret), Client::new().joiner(), at);
    let _both = (enter().expect("a seat"), enter().expect("a seat"));
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
fn t_p6_a_seat_is_given_back_to_its_secret_alone_with_what_was_said_meanwhile() {
    let (rooms, now) = (Rooms::new(limits()), Now::read());
    let at = now.monotonic;
    let opened = rooms.open(OpenOptions::default(), None, now).unwrap();
    let enter = |client: &mut Client, claim: Credential<'_>| {
        let joined = rooms.join_native(Some(opened.room), claim, client.joiner(), at);
        client.take(joined)
    };
    let (mut a, mut b) = (Client::new(), Client::new());
    enter(&mut a, Credential::Secret(&opened.join_secret)).unwrap();
    enter(&mut b, Credential::Secret(&opened.join_secret)).unwrap();
    let joined = b.heard_json().remove(0);
    let resume = joined["resume"].as_str().unwrap().to_owned();
    assert_eq!(
        (&joined["type"], &joined["peer"], &joined["peers"][0]["peer"]),
        (&"joined".into(), &"p2".into(), &"p1".into())
    );
    a.heard();
    a.say("1", at);
    // The connection is lost, with what it may have swallowed.
    b.seat = None;
    assert_eq!(a.heard_json()[0], serde_json::json!({"type": "peer_left", "peer": "p2", "reason": "away"}));
    assert_eq!((a.say("2", at), a.say("3", at)), (Relayed::Sent, Relayed::Sent));
    assert_eq!(
        enter(&mut Client::new(), Credential::Resume { secret: "p2", seen: None }),
        Err(CloseReason::UnknownRoom)
    );
    let mut again = Client::at([198, 51, 100, 7]);
    enter(&mut again, Credential::Resume { secret: &resume, seen: Some(0) }).unwrap();
    let heard = again.heard();
    assert!(heard[0].contains(r#""recovered":true"#), "{heard:?}");
    assert_eq!(heard[1..], ["1", "2", "3"]);
    assert_eq!(a.heard_json()[0]["resumed"], true);
    // Another connection takes the seat over; the one before is closed and has no say any more.
    let mut third = Client::new();
    enter(&mut third, Credential::Resume { secret: &resume, seen: None }).unwrap();
    assert_eq!(again.heard(), ["Close 4508"]);
    assert_eq!(again.say("stolen?", at), Relayed::Ended);
    drop(again);
    assert_eq!(third.heard().len(), 1);
    assert_eq!(third.say("here", at), Relayed::Sent);
    assert_eq!(a.heard().last().unwrap(), "here");
    // More was said than is kept.
    third.seat = None;
    (0..5).for_each(|_| assert_eq!(a.say("x", at), Relayed::Sent));
    let mut late = Client::new();
    enter(&mut late, Credential::Resume { secret: &resume, seen: None }).unwrap();
    let heard = late.heard();
    assert!(heard[0].contains(r#""recovered":false"#) && heard.len() == 5, "{heard:?}");
    // A seat that nobody comes back to is free again.
    late.seat = None;
    a.heard();
    rooms.sweep(at);
    rooms.sweep(at + secs(30));
    assert_eq!(a.heard_json(), [serde_json::json!({"type": "peer_left", "peer": "p2", "reason": "timeout"})]);
    assert_eq!(
        enter(&mut Client::new(), Credential::Resume { secret: &resume, seen: None }),
        Err(CloseReason::UnknownRoom)
    );
    enter(&mut Client::new(), Credential::Secret(&opened.join_secret)).unwrap();
}
