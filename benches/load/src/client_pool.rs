//! Many clients on one epoll instance: performs handshakes, passes on received frames, answers pings.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Epoll, READABLE, WRITABLE};
use crate::target::Handshake;
use crate::ws;

pub struct ClientPool {
    pub epoll: Epoll,
    to: Vec<SocketAddrV4>,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    /// Events of the last [`ClientPool::poll`] for sockets that are not clients: token and readiness.
    pub other_events: Vec<(u64, u32)>,
    /// Clients that completed their handshake, and clients that were closed, in the last poll.
    pub joined: Vec<usize>,
    pub closed: Vec<usize>,
    /// The last error, for the report.
    pub last_error: Option<String>,
}

/// Smallest epoll token that is not a client index.
pub const FIRST_OTHER_TOKEN: u64 = 1 << 32;

struct Client {
    fd: Option<OwnedFd>,
    phase: Phase,
    /// Bytes of an incomplete frame.
    partial: Vec<u8>,
    handshake: Option<Box<Handshake>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Connecting,
    Upgrading,
    Joining,
    Ready,
}

/// Options of a group of clients.
#[derive(Clone, Copy)]
pub struct OpenOptions {
    pub in_flight: usize,
    pub receive_buffer: Option<i32>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { in_flight: 64, receive_buffer: None }
    }
}

impl ClientPool {
    pub fn new(to: Vec<SocketAddrV4>) -> io::Result<ClientPool> {
        Ok(ClientPool {
            epoll: Epoll::new()?,
            to,
            clients: Vec::new(),
            buffer: vec![0; 256 * 1024],
            other_events: Vec::new(),
            joined: Vec::new(),
            closed: Vec::new(),
            last_error: None,
        })
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Opens client `i`, a new one or one that was closed.
    pub fn open(&mut self, i: usize, handshake: Handshake, options: OpenOptions) -> io::Result<()> {
        // 10,000 connections per source address do not exhaust the port range.
        let source = Ipv4Addr::new(127, 0, 0, 1 + (i / 10_000) as u8);
        let fd = sys::connect(self.to[i % self.to.len()], source, options.receive_buffer)?;
        self.epoll.add(fd.as_raw_fd(), READABLE | WRITABLE, i as u64)?;
        let handshake = Some(Box::new(handshake));
        let client = Client { fd: Some(fd), phase: Phase::Connecting, partial: Vec::new(), handshake };
        match self.clients.get_mut(i) {
            Some(slot) => *slot = client,
            None => self.clients.push(client),
        }
        Ok(())
    }

    /// Opens `n` more clients and waits until all are ready. Drops the frames that arrive before.
    pub fn open_all(
        &mut self,
        n: usize,
        options: OpenOptions,
        handshake: impl Fn(usize) -> Handshake,
    ) -> io::Result<()> {
        let first = self.clients.len();
        let (mut started_count, mut ready) = (0, 0);
        let deadline = sys::now() + 120_000_000_000;
        while ready < n {
            while started_count < n && started_count - ready < options.in_flight {
                self.open(first + started_count, handshake(first + started_count), options)?;
                started_count += 1;
            }
            self.poll(100_000_000, |_, _, _| {})?;
            ready += self.joined.len();
            if !self.closed.is_empty() || sys::now() > deadline {
                let last_error = self.last_error.take().unwrap_or_default();
                return Err(io::Error::other(format!("{ready} of {n} clients connected: {last_error}")));
            }
        }
        Ok(())
    }

    /// Waits at most `timeout_ns` for events and passes on data frames: client, opcode, payload.
    pub fn poll(&mut self, timeout_ns: i64, mut on_frame: impl FnMut(usize, u8, &[u8])) -> io::Result<()> {
        self.other_events.clear();
        self.joined.clear();
        self.closed.clear();
        for at in 0..self.epoll.wait(timeout_ns)? {
            let (token, readiness) = self.epoll.event(at);
            if token >= FIRST_OTHER_TOKEN {
                self.other_events.push((token, readiness));
                continue;
            }
            let i = token as usize;
            if let Err(e) = self.serve(i, readiness, &mut on_frame) {
                self.last_error = Some(e.to_string());
                self.close(i);
                self.closed.push(i);
            }
        }
        Ok(())
    }

    /// Disconnects client `i`; `send_close` sends a Close frame first.
    pub fn disconnect(&mut self, i: usize, send_close: bool) {
        if send_close && let Some(fd) = &self.clients[i].fd {
            let mut close = Vec::new();
            ws::client_frame(&mut close, ws::CLOSE, &1000u16.to_be_bytes());
            let _ = sys::write(fd.as_raw_fd(), &close);
        }
        self.close(i);
    }

    /// Sends encoded bytes from client `i`.
    pub fn send(&self, i: usize, bytes: &[u8]) -> io::Result<()> {
        let fd = self.clients[i].fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        send_all(fd.as_raw_fd(), bytes)
    }

    /// Stops reading from client `i`, which stays open.
    pub fn stop_reading(&self, i: usize) -> io::Result<()> {
        self.clients[i].fd.as_ref().map_or(Ok(()), |fd| self.epoll.remove(fd.as_raw_fd()))
    }

    fn close(&mut self, i: usize) {
        self.clients[i].fd = None;
        self.clients[i].partial = Vec::new();
    }

    fn serve(&mut self, i: usize, readiness: u32, on_frame: &mut impl FnMut(usize, u8, &[u8])) -> io::Result<()> {
        let client = &mut self.clients[i];
        let Some(fd) = client.fd.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
        if client.phase == Phase::Connecting && readiness & WRITABLE != 0 {
            let handshake = client.handshake.as_ref().ok_or(io::ErrorKind::InvalidData)?;
            send_all(fd, handshake.request.as_bytes())?;
            client.phase = Phase::Upgrading;
            return self.epoll.change(fd, READABLE, i as u64);
        }
        let Some(n) = sys::read(fd, &mut self.buffer)? else { return Ok(()) };
        if n == 0 {
            return Err(io::Error::other("closed by the server"));
        }
        let joined = if client.partial.is_empty() {
            let (used, joined) = client.consume(i, fd, &self.buffer[..n], on_frame)?;
            client.partial.extend_from_slice(&self.buffer[used..n]);
            joined
        } else {
            let mut bytes = std::mem::take(&mut client.partial);
            bytes.extend_from_slice(&self.buffer[..n]);
            let (used, joined) = client.consume(i, fd, &bytes, on_frame)?;
            if used < bytes.len() {
                client.partial = bytes.split_off(used);
            }
            joined
        };
        if joined {
            self.joined.push(i);
        }
        Ok(())
    }
}

impl Client {
    /// Returns the number of bytes consumed, and whether the handshake is complete.
    fn consume(
        &mut self,
        i: usize,
        fd: RawFd,
        bytes: &[u8],
        on_frame: &mut impl FnMut(usize, u8, &[u8]),
    ) -> io::Result<(usize, bool)> {
        let (mut used, mut joined) = (0, false);
        if self.phase == Phase::Upgrading {
            let Some(end) = ws::head_end(bytes) else { return Ok((0, false)) };
            expect_upgrade(&bytes[..end])?;
            used = end;
            let handshake = self.handshake.take().ok_or(io::ErrorKind::InvalidData)?;
            if !handshake.frames.is_empty() {
                send_all(fd, &handshake.frames)?;
            }
            joined = handshake.ready_marker.is_none();
            self.phase = if joined { Phase::Ready } else { Phase::Joining };
            self.handshake = (!joined).then_some(handshake);
        }
        while let Some(frame) = ws::parse(&bytes[used..]) {
            let payload = &bytes[used + frame.start..used + frame.end];
            used += frame.end;
            match frame.opcode {
                ws::TEXT | ws::BINARY if self.phase == Phase::Ready => on_frame(i, frame.opcode, payload),
                ws::TEXT | ws::BINARY => {
                    let marker = self.handshake.as_ref().and_then(|s| s.ready_marker).unwrap_or("");
                    if contains(payload, marker.as_bytes()) {
                        self.handshake = None;
                        self.phase = Phase::Ready;
                        joined = true;
                    } else if contains(payload, br#""type":"error""#) {
                        return Err(io::Error::other(String::from_utf8_lossy(payload)));
                    }
                }
                ws::PING => {
                    let mut pong = Vec::new();
                    ws::client_frame(&mut pong, ws::PONG, payload);
                    send_all(fd, &pong)?;
                }
                ws::PONG => {}
                ws::CLOSE => return Err(io::Error::other(format!("Close {}", close_text(payload)))),
                other => return Err(io::Error::other(format!("unexpected opcode {other}"))),
            }
        }
        Ok((used, joined))
    }
}

/// Checks that a response head accepts the upgrade.
pub fn expect_upgrade(head: &[u8]) -> io::Result<()> {
    let head = String::from_utf8_lossy(head);
    if head.starts_with("HTTP/1.1 101") && ws::header(&head, "sec-websocket-accept").is_some() {
        return Ok(());
    }
    Err(io::Error::other(format!("upgrade refused: {head}")))
}

/// Sends all bytes. Sleeps while the socket is full, which is rare with small messages.
pub fn send_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sys::write(fd, bytes)? {
            Some(n) => bytes = &bytes[n..],
            None => std::thread::sleep(std::time::Duration::from_micros(100)),
        }
    }
    Ok(())
}

pub fn close_text(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => format!("{} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason)),
        None => "without a code".to_owned(),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len().max(1)).any(|w| w == part)
}
