//! Comparison server of the common design: tokio-tungstenite, a task and a queue for each client.
//! Serves the same paths as the floor.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

type Queue = UnboundedSender<Message>;

#[derive(Default)]
struct Hub {
    subscribers: Mutex<HashMap<u64, Queue>>,
    /// The peers of each room, with their connection numbers.
    rooms: Mutex<HashMap<String, Vec<(u64, Queue)>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|p| p.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let hub = Arc::new(Hub::default());
    for number in 0.. {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(serve(socket, number, hub.clone()));
    }
    Ok(())
}

async fn serve(socket: TcpStream, number: u64, hub: Arc<Hub>) {
    let mut path = String::new();
    // tungstenite defines the signature of the callback.
    #[allow(clippy::result_large_err)]
    let record_path = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let Ok(stream) = accept_hdr_async(socket, record_path).await else { return };
    let (mut sink, mut source) = stream.split();
    let (queue, mut receiver): (Queue, UnboundedReceiver<Message>) = unbounded_channel();
    if path == "/sub" {
        lock(&hub.subscribers).insert(number, queue.clone());
    } else if path != "/pub" {
        lock(&hub.rooms).entry(path.clone()).or_default().push((number, queue.clone()));
    }
    let writer = tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message)) = source.next().await {
        match message {
            Message::Ping(data) => drop(queue.send(Message::Pong(data))),
            Message::Text(_) | Message::Binary(_) if path == "/pub" => {
                for subscriber in lock(&hub.subscribers).values() {
                    let _ = subscriber.send(message.clone());
                }
            }
            Message::Text(_) | Message::Binary(_) => {
                let rooms = lock(&hub.rooms);
                for (_, peer) in rooms.get(&path).into_iter().flatten().filter(|(peer, _)| *peer != number) {
                    let _ = peer.send(message.clone());
                }
            }
            _ => {}
        }
    }
    writer.abort();
    lock(&hub.subscribers).remove(&number);
    lock(&hub.rooms).remove(&path);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
