//! Throughput of a publisher without subscribers: over one WebSocket, and by HTTP requests.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Plan, secs_to_ns};
use crate::client_pool::send_all;
use crate::publisher::Publisher;
use crate::stats::{Meter, Report};
use crate::sys::{self, Epoll, READABLE};
use crate::ws;

/// Publications per second over one WebSocket.
pub fn stream(plan: &Plan) -> io::Result<Report> {
    // Limits unconfirmed publications, so that the server's queue of confirmations stays small.
    const MAX_UNCONFIRMED: u64 = 4096;
    const MAX_QUEUED_BYTES: usize = 256 * 1024;
    let mut pool = plan.pool()?;
    let mut publisher = Publisher::connect(&plan.target, &pool, 0)?;
    let mut sent = 0;
    let meter = Meter::start(&plan.server);
    let end = sys::now() + secs_to_ns(plan.secs);
    while sys::now() < end {
        let room = |sent, confirmed| !plan.target.confirms() || sent - confirmed < MAX_UNCONFIRMED;
        while publisher.queued() < MAX_QUEUED_BYTES && room(sent, publisher.confirmed) {
            publisher.publish(&plan.target, 0, sent);
            sent += 1;
        }
        publisher.flush(&pool)?;
        let must_wait = publisher.queued() > 0 || !room(sent, publisher.confirmed);
        pool.poll(if must_wait { 100_000_000 } else { 0 }, |_, _, _| {})?;
        publisher.serve(&pool)?;
    }
    publisher.ping();
    publisher.flush(&pool)?;
    let deadline = sys::now() + 30_000_000_000;
    while publisher.pongs == 0 || (plan.target.confirms() && publisher.confirmed < sent) {
        pool.poll(100_000_000, |_, _, _| {})?;
        publisher.serve(&pool)?;
        if sys::now() > deadline {
            return Err(io::Error::other(format!("{} of {sent} publications were confirmed", publisher.confirmed)));
        }
    }
    let usage = meter.stop(&plan.server);
    Ok(Report::default()
        .number("publications_per_s", sent as f64 / (usage.wall / 1e9))
        .number("cpu_us_per_publication", usage.cpu / 1000.0 / sent as f64)
        .number("publications", sent as f64)
        .usage(&usage))
}

/// Requests per second over `n` connections with one request in flight each, signed before the measurement.
pub fn post(plan: &Plan) -> io::Result<Report> {
    // Signatures are valid for 60 s, and signing takes about 20 µs.
    let requests: Vec<Vec<u8>> = (0..(plan.secs * 30_000.0) as u64).map(|seq| plan.target.post(seq)).collect();
    let mut epoll = Epoll::new()?;
    let mut next = requests.iter();
    let mut clients = Vec::new();
    for i in 0..plan.n {
        let fd = sys::connect(plan.target.publish_address(0), Ipv4Addr::new(127, 0, 1, 1), None)?;
        epoll.add(fd.as_raw_fd(), READABLE, i as u64)?;
        clients.push((fd, Vec::new()));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let meter = Meter::start(&plan.server);
    let end = sys::now() + secs_to_ns(plan.secs);
    let mut in_flight = 0;
    for (fd, _) in &clients {
        if let Some(request) = next.next() {
            send_all(fd.as_raw_fd(), request)?;
            in_flight += 1;
        }
    }
    let (mut done, mut buffer) = (0u64, vec![0; 64 * 1024]);
    while in_flight > 0 {
        let ready = epoll.wait(5_000_000_000)?;
        if ready == 0 {
            return Err(io::Error::other("no response to a request within 5 s"));
        }
        for at in 0..ready {
            let (fd, partial) = &mut clients[epoll.event(at).0 as usize];
            if !answered(fd, partial, &mut buffer)? {
                continue;
            }
            done += 1;
            in_flight -= 1;
            if sys::now() < end
                && let Some(request) = next.next()
            {
                send_all(fd.as_raw_fd(), request)?;
                in_flight += 1;
            }
        }
    }
    let usage = meter.stop(&plan.server);
    Ok(Report::default()
        .number("requests_per_s", done as f64 / (usage.wall / 1e9))
        .number("cpu_us_per_request", usage.cpu / 1000.0 / done as f64)
        .number("requests", done as f64)
        .usage(&usage))
}

/// Reads once; returns whether the response is complete. A status other than 2xx is an error.
fn answered(fd: &OwnedFd, partial: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<bool> {
    let Some(n) = sys::read(fd.as_raw_fd(), buffer)? else { return Ok(false) };
    partial.extend_from_slice(&buffer[..n]);
    if n == 0 {
        return Err(io::Error::other("publisher: connection closed by the server"));
    }
    let Some(end) = ws::head_end(partial) else { return Ok(false) };
    let head = String::from_utf8_lossy(&partial[..end]);
    let length: usize = ws::header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    if partial.len() < end + length {
        return Ok(false);
    }
    if !head.starts_with("HTTP/1.1 2") {
        return Err(io::Error::other(String::from_utf8_lossy(partial).into_owned()));
    }
    partial.clear();
    Ok(true)
}
