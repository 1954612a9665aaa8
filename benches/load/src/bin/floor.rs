//! The floor: one thread, one epoll instance, and only the unavoidable system calls.
//!
//! `/sub` subscribes. Each frame on `/pub` is encoded once and written to every subscriber with one `write`;
//! with `--batch`, all frames of one read share one `write` per subscriber. `/relay/ID` pairs the first two
//! connections of an ID. `POST /pub` returns 200, with `--verify` after one Ed25519 verification. `--ping-secs N`
//! pings every subscriber in turn. A subscriber whose socket buffer is full is disconnected.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use lastmile_bench::sys::{self, Epoll, READABLE};
use lastmile_bench::ws;

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Closed,
    /// No complete upgrade request yet, or plain HTTP requests only.
    Http,
    /// With its index in the list of subscribers.
    Subscriber(u32),
    Publisher,
    /// With the socket of the other peer, or -1 while it waits for one.
    Peer(RawFd),
}

struct Floor {
    epoll: Epoll,
    roles: Vec<Role>,
    subscribers: Vec<RawFd>,
    /// Incomplete input, by socket. Empty while connections are idle.
    partial: HashMap<RawFd, Vec<u8>>,
    waiting: HashMap<String, RawFd>,
    out: Vec<u8>,
    batch: bool,
    verify: Option<(VerifyingKey, Signature)>,
}

fn main() -> io::Result<()> {
    let (mut port, mut batch, mut verify, mut ping_secs) = (0, false, false, 0u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--port" => port = number(args.next()) as u16,
            "--ping-secs" => ping_secs = number(args.next()),
            "--batch" => batch = true,
            "--verify" => verify = true,
            _ => usage(),
        }
    }
    if port == 0 {
        usage();
    }
    sys::raise_file_limit();
    let key = SigningKey::from_bytes(&[7; 32]);
    let verify = verify.then(|| (key.verifying_key(), key.sign(SIGNED_SAMPLE)));
    let floor = Floor {
        epoll: Epoll::new()?,
        roles: Vec::new(),
        subscribers: Vec::new(),
        partial: HashMap::new(),
        waiting: HashMap::new(),
        out: Vec::new(),
        batch,
        verify,
    };
    floor.run(port, ping_secs)
}

/// Has the length of a typical signature base.
const SIGNED_SAMPLE: &[u8] = &[b's'; 400];

fn number(arg: Option<String>) -> u64 {
    arg.and_then(|a| a.parse().ok()).unwrap_or_else(|| usage())
}

fn usage() -> ! {
    eprintln!("usage: floor --port PORT [--batch] [--verify] [--ping-secs N]");
    std::process::exit(64)
}

impl Floor {
    fn run(mut self, port: u16, ping_secs: u64) -> io::Result<()> {
        let socket = sys::listen(port)?;
        self.epoll.add(socket.as_raw_fd(), READABLE, u64::MAX)?;
        let mut buffer = vec![0; 256 * 1024];
        let (mut pinged, mut next_tick) = (0, sys::now());
        loop {
            let ready = self.epoll.wait(if ping_secs > 0 { PING_TICK_NS as i64 } else { -1 })?;
            for i in 0..ready {
                match self.epoll.event(i).0 {
                    u64::MAX => self.accept(socket.as_raw_fd())?,
                    fd => self.read(fd as RawFd, &mut buffer),
                }
            }
            if ping_secs > 0 && sys::now() >= next_tick {
                next_tick += PING_TICK_NS;
                self.ping_some(&mut pinged, ping_secs);
            }
        }
    }

    fn accept(&mut self, socket: RawFd) -> io::Result<()> {
        while let Some(fd) = sys::accept(socket)? {
            let fd = fd.into_raw_fd();
            self.epoll.add(fd, READABLE, fd as u64)?;
            if self.roles.len() <= fd as usize {
                self.roles.resize(fd as usize + 1, Role::Closed);
            }
            self.roles[fd as usize] = Role::Http;
        }
        Ok(())
    }

    fn read(&mut self, fd: RawFd, buffer: &mut [u8]) {
        let n = match sys::read(fd, buffer) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => return self.close(fd),
            Ok(Some(n)) => n,
        };
        match self.partial.remove(&fd) {
            None => self.consume(fd, &mut buffer[..n]),
            Some(mut before) => {
                before.extend_from_slice(&buffer[..n]);
                self.consume(fd, &mut before);
            }
        }
    }

    fn consume(&mut self, fd: RawFd, bytes: &mut [u8]) {
        let used = match self.roles[fd as usize] {
            Role::Closed => return,
            Role::Http => self.requests(fd, bytes),
            _ => self.frames(fd, bytes),
        };
        if used < bytes.len() && self.roles[fd as usize] != Role::Closed {
            self.partial.insert(fd, bytes[used..].to_vec());
        }
    }

    fn requests(&mut self, fd: RawFd, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        while let Some(end) = ws::head_end(&bytes[used..]) {
            let head = String::from_utf8_lossy(&bytes[used..used + end]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("").to_owned();
            if let Some(key) = ws::header(&head, "sec-websocket-key") {
                let accept = ws::accept_key(key);
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                self.send(fd, answer.as_bytes());
                self.upgraded(fd, &path);
                return used + end;
            }
            let length = ws::header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            if bytes.len() < used + end + length {
                break;
            }
            used += end + length;
            if let Some((key, signature)) = &self.verify
                && key.verify_strict(SIGNED_SAMPLE, signature).is_err()
            {
                return used;
            }
            self.send(fd, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        }
        used
    }

    fn upgraded(&mut self, fd: RawFd, path: &str) {
        let role = match path.strip_prefix("/relay/") {
            Some(id) => match self.waiting.remove(id) {
                Some(peer) => {
                    self.roles[peer as usize] = Role::Peer(fd);
                    Role::Peer(peer)
                }
                None => {
                    self.waiting.insert(id.to_owned(), fd);
                    Role::Peer(-1)
                }
            },
            None if path == "/pub" => Role::Publisher,
            None => {
                self.subscribers.push(fd);
                Role::Subscriber(self.subscribers.len() as u32 - 1)
            }
        };
        self.roles[fd as usize] = role;
    }

    fn frames(&mut self, fd: RawFd, bytes: &mut [u8]) -> usize {
        let role = self.roles[fd as usize];
        let mut used = 0;
        let mut out = std::mem::take(&mut self.out);
        while let Some(frame) = ws::parse(&bytes[used..]) {
            let payload = &mut bytes[used + frame.start..used + frame.end];
            used += frame.end;
            let Some(mask) = frame.mask else {
                self.close(fd);
                break;
            };
            ws::unmask(payload, mask);
            match (frame.opcode, role) {
                (ws::CLOSE, _) => {
                    out.clear();
                    ws::server_frame(&mut out, ws::CLOSE, payload);
                    self.send(fd, &out);
                    self.close(fd);
                    out.clear();
                    break;
                }
                (ws::PING, _) => {
                    let mut pong = Vec::new();
                    ws::server_frame(&mut pong, ws::PONG, payload);
                    self.send(fd, &pong);
                }
                (ws::TEXT | ws::BINARY, Role::Publisher) => {
                    ws::server_frame(&mut out, frame.opcode, payload);
                    if !self.batch {
                        self.fan_out(&out);
                        out.clear();
                    }
                }
                (ws::TEXT | ws::BINARY, Role::Peer(peer)) if peer >= 0 => {
                    ws::server_frame(&mut out, frame.opcode, payload);
                    self.send(peer, &out);
                    out.clear();
                }
                _ => {}
            }
        }
        if !out.is_empty() {
            self.fan_out(&out);
        }
        out.clear();
        self.out = out;
        used
    }

    fn fan_out(&mut self, frames: &[u8]) {
        let mut i = 0;
        while i < self.subscribers.len() {
            let fd = self.subscribers[i];
            // A disconnected subscriber is replaced by the last one.
            if self.send(fd, frames) {
                i += 1;
            }
        }
    }

    /// Whether the socket took all bytes; it is closed otherwise.
    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> bool {
        let is_written = matches!(sys::write(fd, bytes), Ok(Some(n)) if n == bytes.len());
        if !is_written {
            self.close(fd);
        }
        is_written
    }

    fn ping_some(&mut self, at: &mut usize, ping_secs: u64) {
        let ticks = ping_secs * 1_000_000_000 / PING_TICK_NS;
        let share = self.subscribers.len().div_ceil(ticks as usize);
        for _ in 0..share {
            if *at >= self.subscribers.len() {
                *at = 0;
                return;
            }
            self.send(self.subscribers[*at], &[0x89, 0]);
            *at += 1;
        }
    }

    fn close(&mut self, fd: RawFd) {
        match std::mem::replace(&mut self.roles[fd as usize], Role::Closed) {
            Role::Closed => return,
            Role::Subscriber(at) => {
                self.subscribers.swap_remove(at as usize);
                if let Some(&moved) = self.subscribers.get(at as usize) {
                    self.roles[moved as usize] = Role::Subscriber(at);
                }
            }
            Role::Peer(-1) => self.waiting.retain(|_, waiting| *waiting != fd),
            Role::Peer(peer) => self.close(peer),
            _ => {}
        }
        self.partial.remove(&fd);
        sys::close(fd);
    }
}

/// Interval between batches of pings, which spread them over a ping interval.
const PING_TICK_NS: u64 = 100_000_000;
