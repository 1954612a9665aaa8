//! Batches of frames: what waits, and what is written at once.

use super::*;

/// Accepts everything and records each write.
#[derive(Default)]
struct RecordingSocket(Mutex<Vec<Vec<u8>>>);

impl Socket for RecordingSocket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn try_write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(&buffers.iter().flat_map(|buffer| buffer.to_vec()).collect::<Vec<_>>())
    }
}

fn connection(outbox_frames: usize) -> Connection<RecordingSocket> {
    let limits = ConnectionLimits {
        outbox_bytes: 1 << 20,
        outbox_frames,
        stall: Duration::MAX,
        close: Duration::MAX,
        ping: Duration::MAX,
        pong: Duration::MAX,
        close_silent_without_ping: None,
    };
    Connection::new(1, Arc::new(limits), RecordingSocket::default())
}

fn frames(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| websocket::text_frame(text.as_bytes())).collect()
}

#[test]
fn batch_is_one_write() {
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
fn full_batch_does_not_overflow() {
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
fn close_follows_batch() {
    let connection = connection(1024);
    connection.begin_batch();
    connection.send_text("a");
    connection.close(CloseReason::Malformed);
    let expected = [frames(&["a"]), websocket::close_frame(CloseReason::Malformed).to_vec()].concat();
    assert_eq!(connection.socket().0.lock().concat(), expected);
}
