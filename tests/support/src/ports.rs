//! Ports for servers that must know theirs before they are bound, or that come back on the same one.

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the ports that the kernel gives to whoever asks for any, so that no connection and no listener of another test
/// takes one in between. A node of a Redis Cluster speaks on a port that is 10,000 higher, which is still below them.
const FIRST: u16 = 10_000;
const COUNT: u16 = 11_000;

/// A port that nobody listens on, and that nobody else who asks here gets, in this process or another one.
pub fn free_port() -> u16 {
    // The UDP port of the same number stands for it until the process ends.
    static TAKEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let first = getrandom::u32().unwrap() as u16 % COUNT;
    for n in 0..COUNT {
        let port = FIRST + (first + n) % COUNT;
        let Ok(mark) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if [port, port + 10_000].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            TAKEN.lock().unwrap().push(mark);
            return port;
        }
    }
    panic!("no port is free");
}
