//! A publisher: one WebSocket with a queue of encoded frames and a count of confirmations.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::client_pool::{ClientPool, FIRST_OTHER_TOKEN, close_text, expect_upgrade};
use crate::sys::{self, READABLE, WRITABLE};
use crate::target::Target;
use crate::ws;

pub struct Publisher {
    fd: OwnedFd,
    token: u64,
    out: Vec<u8>,
    written: usize,
    blocked: bool,
    partial: Vec<u8>,
    buffer: Vec<u8>,
    /// Confirmations received, if the server sends them.
    pub confirmed: u64,
    pub pongs: u64,
}

impl Publisher {
    /// Connects, upgrades and registers with the epoll instance of `pool`, as the `number`th socket that is not a client.
    pub fn connect(target: &Target, pool: &ClientPool, number: u64) -> io::Result<Publisher> {
        let fd = sys::connect(target.publish_address(number as usize), Ipv4Addr::new(127, 0, 1, 1), None)?;
        let mut publisher = Publisher {
            fd,
            token: FIRST_OTHER_TOKEN + number,
            out: target.publisher(number as usize).into_bytes(),
            written: 0,
            blocked: false,
            partial: Vec::new(),
            buffer: vec![0; 64 * 1024],
            confirmed: 0,
            pongs: 0,
        };
        publisher.upgrade()?;
        pool.epoll.add(publisher.fd.as_raw_fd(), READABLE, publisher.token)?;
        Ok(publisher)
    }

    fn upgrade(&mut self) -> io::Result<()> {
        let deadline = sys::now() + 10_000_000_000;
        let mut head = Vec::new();
        while sys::now() < deadline {
            while self.written < self.out.len() {
                match sys::write(self.fd.as_raw_fd(), &self.out[self.written..]) {
                    Ok(Some(n)) => self.written += n,
                    _ => break,
                }
            }
            if let Ok(Some(n)) = sys::read(self.fd.as_raw_fd(), &mut self.buffer) {
                head.extend_from_slice(&self.buffer[..n]);
                if let Some(end) = ws::head_end(&head) {
                    self.partial = head.split_off(end);
                    (self.out, self.written) = (Vec::new(), 0);
                    return expect_upgrade(&head);
                }
                if n == 0 {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::other("publisher: no response to the upgrade"))
    }

    pub fn publish(&mut self, target: &Target, channel: usize, seq: u64) {
        target.publication(channel, seq, &mut self.out);
    }

    /// Sends a ping. Its pong shows that the server has read all earlier frames.
    pub fn ping(&mut self) {
        ws::client_frame(&mut self.out, ws::PING, b"end");
    }

    /// Encoded bytes that are not written yet.
    pub fn queued(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes as much as the socket takes; the rest follows when `pool` reports it writable.
    pub fn flush(&mut self, pool: &ClientPool) -> io::Result<()> {
        while self.written < self.out.len() {
            match sys::write(self.fd.as_raw_fd(), &self.out[self.written..])? {
                Some(n) => self.written += n,
                None => break,
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        let blocked = self.queued() > 0;
        if blocked != self.blocked {
            self.blocked = blocked;
            let interest = if blocked { READABLE | WRITABLE } else { READABLE };
            pool.epoll.change(self.fd.as_raw_fd(), interest, self.token)?;
        }
        Ok(())
    }

    /// Handles the events of the last poll.
    pub fn serve(&mut self, pool: &ClientPool) -> io::Result<()> {
        let Some(&(_, readiness)) = pool.other_events.iter().find(|(token, _)| *token == self.token) else {
            return Ok(());
        };
        if readiness & WRITABLE != 0 {
            self.flush(pool)?;
        }
        if readiness & !WRITABLE != 0 {
            self.read()?;
            self.flush(pool)?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(n) = sys::read(self.fd.as_raw_fd(), &mut self.buffer)? else { return Ok(()) };
        if n == 0 {
            return Err(io::Error::other("publisher: connection closed by the server"));
        }
        self.partial.extend_from_slice(&self.buffer[..n]);
        let mut used = 0;
        while let Some(frame) = ws::parse(&self.partial[used..]) {
            let payload = &self.partial[used + frame.start..used + frame.end];
            used += frame.end;
            match frame.opcode {
                ws::PONG => self.pongs += 1,
                ws::PING => ws::client_frame(&mut self.out, ws::PONG, payload),
                ws::CLOSE => return Err(io::Error::other(format!("publisher: Close {}", close_text(payload)))),
                _ if payload.starts_with(br#"{"type":"error""#) => {
                    return Err(io::Error::other(format!("publisher: {}", String::from_utf8_lossy(payload))));
                }
                _ if payload.starts_with(br#"{"type":"published""#) => self.confirmed += 1,
                _ => {}
            }
        }
        self.partial.drain(..used);
        Ok(())
    }
}
