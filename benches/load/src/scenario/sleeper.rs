//! Memory of the server while some subscribers never read and one reads all publications.

use std::io;

use super::{Checker, Plan};
use crate::client_pool::OpenOptions;
use crate::publisher::Publisher;
use crate::stats::Report;
use crate::sys;

/// Runs `n` subscribers that never read, and publishes `volume` bytes in payloads of the plan's size.
pub fn run(plan: &Plan) -> io::Result<Report> {
    let mut pool = plan.subscribers(1)?;
    let narrow = OpenOptions { receive_buffer: Some(4096), ..OpenOptions::default() };
    pool.open_all(plan.n, narrow, |i| plan.target.subscriber(i))?;
    for i in 1..=plan.n {
        pool.stop_reading(i)?;
    }
    let mut publisher = Publisher::connect(&plan.target, &pool, 0)?;
    let mut checker = Checker::new(1);
    let before = plan.server.resident();
    let (mut peak, mut sent) = (before, 0);
    let count = plan.volume / plan.target.size as u64;
    let (started, mut deadline) = (sys::now(), sys::now() + 20_000_000_000);
    while checker.deliveries < count {
        while sent < count && sent - checker.deliveries < plan.in_flight as u64 {
            publisher.publish(&plan.target, 0, sent);
            sent += 1;
        }
        publisher.flush(&pool)?;
        let arrived = checker.deliveries;
        pool.poll(100_000_000, |i, _, payload| {
            if let Some(seq) = plan.target.seq(payload) {
                checker.record(i, seq, payload.len());
            }
        })?;
        publisher.serve(&pool)?;
        if checker.deliveries > arrived {
            deadline = sys::now() + 20_000_000_000;
            if checker.deliveries / 64 != arrived / 64 {
                peak = peak.max(plan.server.resident());
            }
        }
        if sys::now() > deadline || !pool.closed.is_empty() {
            let got = checker.deliveries;
            return Err(io::Error::other(format!("the reader stalled at {got} of {count} publications")));
        }
    }
    let after = plan.server.resident();
    let report = Report::default()
        .number("growth_mb", (peak.max(after) - before) as f64 / 1e6)
        .number("growth_at_end_mb", (after - before) as f64 / 1e6)
        .number("passed_mb", (count * plan.target.size as u64) as f64 / 1e6)
        .number("wall_s", (sys::now() - started) as f64 / 1e9);
    Ok(checker.report(report))
}
