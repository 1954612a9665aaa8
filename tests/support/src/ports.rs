//! Ports for servers that must know theirs before they are bound, or that come back on the same one.

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the kernel's ephemeral ports, so that no connection and no other test's listener takes one in between. A node of
/// a Redis Cluster also uses the port 10,000 higher, which is still below them.
const FIRST: u16 = 10_000;
const COUNT: u16 = 11_000;

/// A free port, given to one caller only, in this process and others.
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
