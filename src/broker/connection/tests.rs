//! What a cork holds back, and what it does not.

use super::*;

/// Takes everything, and keeps what each write brought.
#[derive(Default)]
struct Writes(Mutex<Vec<Vec<u8>>>);

impl Socket for Writes {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn try_write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(&buffers.iter().flat_map(|buffer| buffer.to_vec()).collect::<Vec<_>>())
    }
}

fn connection(outbox_frames: usize) -> Connection<Writes> {
    let limits = ConnectionLimits {
        outbox_bytes: 1 << 20,
        outbox_frames,
        stall: Duration::MAX,
        close: Duration::MAX,
        ping: Duration::MAX,
        pong: Duration::MAX,
        close_silent_without_ping: None,
    };
    Connection::new(1, Arc::new(limits), Writes::default())
}

fn frames(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| websocket::text_frame(text.as_bytes())).collect()
}

#[test]
fn what_is_sent_under_a_cork_goes_out_in_one_write_and_what_comes_after_it_alone() {
    let connection = connection(1024);
    connection.begin_batch();
    for text in ["a", "b"] {
        assert_eq!(connection.send_text(text), Sent::Queued);
    }
    assert!(connection.socket().0.lock().is_empty());
    connection.end_batch();
    assert_eq!(connection.send_text("c"), Sent::Written);
    assert_eq!(*connection.socket().0.lock(), [frames(&["a", "b"]), frames(&["c"])]);
}

#[test]
fn a_cork_holds_no_more_than_the_outbox_may_and_ends_nobody() {
    let (connection, long) = (connection(4), "x".repeat(9000));
    let texts = ["a", "b", "c", "d", "e", "f", &long, &long, &long, "g"];
    connection.begin_batch();
    for text in texts {
        assert!(matches!(connection.send_text(text), Sent::Written | Sent::Queued), "{text}");
    }
    connection.end_batch();
    assert_eq!(connection.phase(), Phase::Open);
    assert_eq!(connection.socket().0.lock().concat(), frames(&texts));
}

#[test]
fn a_close_goes_out_behind_what_a_cork_holds() {
    let connection = connection(1024);
    connection.begin_batch();
    connection.send_text("a");
    connection.close(CloseReason::Malformed);
    let expected = [frames(&["a"]), websocket::close_frame(CloseReason::Malformed).to_vec()].concat();
    assert_eq!(connection.socket().0.lock().concat(), expected);
}
