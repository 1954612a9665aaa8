//! Valid and invalid frames, fed in pieces of several sizes.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { message_bytes: 65536, fragments: 16 };

/// A masked frame with the given first byte and the shortest encoding of its length.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n @ 126..=65535 => {
            frame.push(0x80 | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Feeds `bytes` in pieces of `step`; returns the messages.
fn run(bytes: &[u8], step: usize) -> (Vec<String>, Result<(), CloseReason>) {
    let mut assembler = Assembler::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        let result = assembler.feed(&mut piece.to_vec(), BOUNDS, &mut |message| {
            seen.push(format!("{message:?}"));
            Ok(())
        });
        if result.is_err() {
            return (seen, result);
        }
    }
    (seen, Ok(()))
}

fn check(bytes: &[u8], expected: &[&str], result: Result<(), CloseReason>) {
    for step in [1, 2, 3, 7, usize::MAX] {
        let (seen, ended) = run(bytes, step);
        assert_eq!(seen, expected, "in steps of {step}");
        assert_eq!(ended, result, "in steps of {step}");
    }
}

#[test]
fn assembles_messages_from_pieces() {
    check(&masked(0x81, b"hello"), &[r#"Text("hello")"#], Ok(()));
    check(&masked(0x82, &[1, 2]), &["Binary([1, 2])"], Ok(()));
    check(&masked(0x89, b"p"), &["Ping([112])"], Ok(()));
    check(&masked(0x8a, b""), &["Pong"], Ok(()));
    check(&masked(0x88, &[0x03, 0xe8]), &["Close([3, 232])"], Ok(()));
    let fragments = [masked(0x01, b"he"), masked(0x89, b""), masked(0x00, b"l"), masked(0x80, b"lo")].concat();
    check(&fragments, &["Ping([])", r#"Text("hello")"#], Ok(()));
    let two = [masked(0x81, b"a"), masked(0x81, &[b'b'; 200])].concat();
    check(&two, &[r#"Text("a")"#, &format!("Text({:?})", "b".repeat(200))], Ok(()));
}

#[test]
fn first_frame_marks_compression() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let negotiated = |bytes: &[u8]| {
        let mut seen = Vec::new();
        let fed = Assembler::new(true).feed(&mut bytes.to_vec(), BOUNDS, &mut |message| {
            seen.push(format!("{message:?}"));
            Ok(())
        });
        fed.map(|()| seen)
    };
    let texts = |texts: &[&str]| Ok(texts.iter().map(|text| format!("Text({text:?})")).collect());
    assert_eq!(negotiated(&masked(0xc1, &hello)), texts(&["Hello"]));
    let mixed = [
        masked(0x41, &hello[..3]),
        masked(0x00, &hello[3..6]),
        masked(0x80, &hello[6..]),
        masked(0x81, b"plain"),
        masked(0x01, b"pl"),
        masked(0x80, b"ain"),
    ];
    assert_eq!(negotiated(&mixed.concat()), texts(&["Hello", "plain", "plain"]));
    let forbidden = [
        masked(0xc9, b""),
        [masked(0x41, &hello[..3]), masked(0xc0, &hello[3..])].concat(),
        [masked(0x01, b"a"), masked(0xc0, &hello)].concat(),
        masked(0xa1, b"a"),
        masked(0x91, b"a"),
        masked(0xe1, &hello),
    ];
    for bytes in forbidden {
        assert_eq!(negotiated(&bytes), Err(CloseReason::ProtocolError), "{bytes:x?}");
    }
    check(&masked(0xc1, &hello), &[], Err(CloseReason::ProtocolError));
}

#[test]
fn unmasked_frame_is_an_error() {
    check(&[0x81, 0x01, b'a'], &[], Err(CloseReason::ProtocolError));
}

#[test]
fn forbidden_frames_are_errors() {
    let forbidden: [&[u8]; 12] = [
        &masked(0xc1, b"a"),                                // reserved bit
        &masked(0x83, b"a"),                                // reserved opcode
        &masked(0x8b, b"a"),                                // reserved control opcode
        &masked(0x09, b"a"),                                // fragmented control frame
        &masked(0x89, &[0; 126]),                           // long control frame
        &masked(0x80, b"a"),                                // continuation of nothing
        &[masked(0x01, b"a"), masked(0x81, b"b")].concat(), // a message inside a message
        &masked(0x88, &[3]),                                // half a close code
        &masked(0x88, &[0x03, 0xed]),                       // 1005 must not be sent
        &masked(0x88, &[0x00, 0x01]),                       // no such code
        &[0x81, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'a'],        // a length that is not minimal
        &[0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'a'],
    ];
    for bytes in forbidden {
        check(bytes, &[], Err(CloseReason::ProtocolError));
    }
}

#[test]
fn invalid_utf8_is_reported() {
    check(&masked(0x81, &[0xff]), &[], Err(CloseReason::InvalidUtf8));
    check(&[masked(0x01, &[0xc3]), masked(0x80, &[0x28])].concat(), &[], Err(CloseReason::InvalidUtf8));
    check(&masked(0x88, &[0x03, 0xe8, 0xff]), &[], Err(CloseReason::InvalidUtf8));
    check(&[masked(0x01, &[0xc3]), masked(0x80, &[0xa9])].concat(), &[r#"Text("é")"#], Ok(()));
}

#[test]
fn header_with_huge_length_is_refused() {
    for length in [65537, u64::MAX >> 1] {
        for opcode in [0x81, 0x82, 0x01, 0x02] {
            let mut frame = vec![opcode, 0x80 | 127];
            frame.extend(length.to_be_bytes());
            frame.extend([0; 4]);
            check(&frame, &[], Err(CloseReason::MessageTooBig));
        }
    }
    for length in [1 << 63, u64::MAX] {
        let mut frame = vec![0x82, 0x80 | 127];
        frame.extend(u64::to_be_bytes(length));
        frame.extend([0; 4]);
        check(&frame, &[], Err(CloseReason::ProtocolError));
    }
}

#[test]
fn fragments_are_bounded() {
    let mut flood = masked(0x01, b"");
    for _ in 0..16 {
        flood.extend(masked(0x00, b""));
    }
    check(&flood, &[], Err(CloseReason::MessageTooBig));
    let big = [masked(0x01, &[b'a'; 40000]), masked(0x80, &[b'a'; 40000])].concat();
    let (seen, result) = run(&big, usize::MAX);
    assert!(seen.is_empty());
    assert_eq!(result, Err(CloseReason::MessageTooBig));
}

#[test]
fn memory_follows_received_bytes() {
    let mut assembler = Assembler::default();
    let mut head = vec![0x82, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3];
    assembler.feed(&mut head, BOUNDS, &mut |_| Ok(())).unwrap();
    assert!(assembler.partial.as_ref().unwrap().frame.capacity() < 64);
}

#[test]
fn no_buffer_between_messages() {
    let mut assembler = Assembler::default();
    let bytes = [masked(0x01, b"he"), masked(0x80, b"llo"), masked(0x81, b"again")].concat();
    for piece in bytes.chunks(2) {
        assembler.feed(&mut piece.to_vec(), BOUNDS, &mut |_| Ok(())).unwrap();
    }
    assert!(assembler.partial.is_none());
}

proptest! {
    #[test]
    fn result_is_independent_of_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1usize..40) {
        prop_assert_eq!(run(&bytes, step), run(&bytes, usize::MAX));
    }

    #[test]
    fn reads_frames_of_tungstenite(payloads in proptest::collection::vec(".{0,300}", 1..8), step in 1usize..600) {
        use tungstenite::protocol::frame::Frame;
        let mut bytes = Vec::new();
        for payload in &payloads {
            let mut frame = Frame::message(payload.clone(), OpCode::Data(Data::Text), true);
            frame.header_mut().mask = Some([1, 2, 3, 4]);
            frame.format(&mut bytes).unwrap();
        }
        let expected: Vec<String> = payloads.iter().map(|text| format!("Text({text:?})")).collect();
        prop_assert_eq!(run(&bytes, step), (expected, Ok(())));
    }
}
