//! Cost of connections: memory of idle ones, CPU of opening one, memory left after many.

use std::io;

use super::{Plan, pause, secs_to_ns};
use crate::client_pool::OpenOptions;
use crate::stats::{Meter, Report};
use crate::sys;

/// Resident bytes of an idle connection, and CPU for pings only.
pub fn idle(plan: &Plan) -> io::Result<Report> {
    // The first clients trigger one-time allocations of the server.
    let mut pool = plan.subscribers(100.min(plan.n))?;
    pause(&mut pool, 500_000_000)?;
    let before = plan.server.resident();
    let more = plan.n - pool.len();
    pool.open_all(more, OpenOptions::default(), |i| plan.target.subscriber(i))?;
    pause(&mut pool, 1_500_000_000)?;
    let after = plan.server.resident();
    let meter = Meter::start(&plan.server);
    pause(&mut pool, secs_to_ns(plan.secs))?;
    let usage = meter.stop(&plan.server);
    if !pool.closed.is_empty() {
        return Err(io::Error::other("idle connections were closed"));
    }
    Ok(Report::default()
        .number("bytes_per_connection", (after - before) as f64 / more.max(1) as f64)
        .number("bytes_after_pings", (plan.server.resident() - before) as f64 / more.max(1) as f64)
        .number("cpu_percent", usage.cpu / usage.wall * 100.0)
        .number("resident_mb", after as f64 / 1e6)
        .usage(&usage))
}

/// CPU time of a handshake and a subscription.
pub fn connect(plan: &Plan) -> io::Result<Report> {
    let mut pool = plan.subscribers(200)?;
    let meter = Meter::start(&plan.server);
    pool.open_all(plan.n, OpenOptions::default(), |i| plan.target.subscriber(i - 200))?;
    let usage = meter.stop(&plan.server);
    Ok(Report::default()
        .number("cpu_ms_per_1000", usage.cpu / 1e6 / plan.n as f64 * 1000.0)
        .number("connections_per_s", plan.n as f64 / (usage.wall / 1e9))
        .usage(&usage))
}

/// Resident memory before and after `n` connections were opened and closed, every other one with a Close frame.
pub fn churn(plan: &Plan) -> io::Result<Report> {
    let mut pool = plan.pool()?;
    let start = plan.server.resident();
    cycles(plan, &mut pool, plan.n / 10)?;
    pause(&mut pool, 1_000_000_000)?;
    let before = plan.server.resident();
    let meter = Meter::start(&plan.server);
    cycles(plan, &mut pool, plan.n)?;
    let usage = meter.stop(&plan.server);
    pause(&mut pool, 2_000_000_000)?;
    let after = plan.server.resident();
    Ok(Report::default()
        .number("resident_start_mb", start as f64 / 1e6)
        .number("resident_before_mb", before as f64 / 1e6)
        .number("resident_after_mb", after as f64 / 1e6)
        .number("growth_percent", (after - before) as f64 / before as f64 * 100.0)
        .number("cpu_ms_per_1000", usage.cpu / 1e6 / plan.n as f64 * 1000.0)
        .usage(&usage))
}

fn cycles(plan: &Plan, pool: &mut crate::client_pool::ClientPool, cycles: usize) -> io::Result<()> {
    const MAX_OPEN_CLIENTS: usize = 200;
    let mut started_count = MAX_OPEN_CLIENTS.min(cycles);
    for i in 0..started_count {
        pool.open(i, plan.target.subscriber(i), OpenOptions::default())?;
    }
    let (mut done, deadline) = (0, sys::now() + 300_000_000_000);
    while done < cycles {
        pool.poll(1_000_000_000, |_, _, _| {})?;
        for i in std::mem::take(&mut pool.joined) {
            done += 1;
            pool.disconnect(i, done % 2 == 0);
            if started_count < cycles {
                started_count += 1;
                pool.open(i, plan.target.subscriber(started_count), OpenOptions::default())?;
            }
        }
        if !pool.closed.is_empty() || sys::now() > deadline {
            let last_error = pool.last_error.take().unwrap_or_default();
            return Err(io::Error::other(format!("{done} of {cycles} cycles: {last_error}")));
        }
    }
    Ok(())
}
