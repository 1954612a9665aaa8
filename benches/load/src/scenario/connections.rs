//! Connections themselves: what an idle one costs, what it takes to open one, and what is left after many.

use std::io;

use super::{Plan, pause, seconds};
use crate::client_pool::Opening;
use crate::stats::{Meter, Report};
use crate::sys;

/// Resident bytes of an idle connection, and CPU while nothing happens but pings.
pub fn idle(plan: &Plan) -> io::Result<Report> {
    // The first clients make the server reserve what it reserves once.
    let mut fleet = plan.subscribers(100.min(plan.n))?;
    pause(&mut fleet, 500_000_000)?;
    let before = plan.server.resident();
    let more = plan.n - fleet.len();
    fleet.open_all(more, Opening::default(), |i| plan.target.subscriber(i))?;
    pause(&mut fleet, 1_500_000_000)?;
    let after = plan.server.resident();
    let meter = Meter::start(&plan.server);
    pause(&mut fleet, seconds(plan.secs))?;
    let spent = meter.stop(&plan.server);
    if !fleet.closed.is_empty() {
        return Err(io::Error::other("idle connections were closed"));
    }
    Ok(Report::default()
        .number("bytes_per_connection", (after - before) as f64 / more.max(1) as f64)
        .number("bytes_after_pings", (plan.server.resident() - before) as f64 / more.max(1) as f64)
        .number("cpu_percent", spent.cpu / spent.wall * 100.0)
        .number("resident_mb", after as f64 / 1e6)
        .spent(&spent))
}

/// CPU of a handshake and a subscription.
pub fn connect(plan: &Plan) -> io::Result<Report> {
    let mut fleet = plan.subscribers(200)?;
    let meter = Meter::start(&plan.server);
    fleet.open_all(plan.n, Opening::default(), |i| plan.target.subscriber(i - 200))?;
    let spent = meter.stop(&plan.server);
    Ok(Report::default()
        .number("cpu_ms_per_1000", spent.cpu / 1e6 / plan.n as f64 * 1000.0)
        .number("connections_per_s", plan.n as f64 / (spent.wall / 1e9))
        .spent(&spent))
}

/// Resident memory before and after `n` connections have come and gone, every other one with a Close frame.
pub fn churn(plan: &Plan) -> io::Result<Report> {
    let mut fleet = plan.fleet()?;
    let start = plan.server.resident();
    cycles(plan, &mut fleet, plan.n / 10)?;
    pause(&mut fleet, 1_000_000_000)?;
    let before = plan.server.resident();
    let meter = Meter::start(&plan.server);
    cycles(plan, &mut fleet, plan.n)?;
    let spent = meter.stop(&plan.server);
    pause(&mut fleet, 2_000_000_000)?;
    let after = plan.server.resident();
    Ok(Report::default()
        .number("resident_start_mb", start as f64 / 1e6)
        .number("resident_before_mb", before as f64 / 1e6)
        .number("resident_after_mb", after as f64 / 1e6)
        .number("growth_percent", (after - before) as f64 / before as f64 * 100.0)
        .number("cpu_ms_per_1000", spent.cpu / 1e6 / plan.n as f64 * 1000.0)
        .spent(&spent))
}

fn cycles(plan: &Plan, fleet: &mut crate::client_pool::Fleet, cycles: usize) -> io::Result<()> {
    const AT_ONCE: usize = 200;
    let mut begun = AT_ONCE.min(cycles);
    for i in 0..begun {
        fleet.open(i, plan.target.subscriber(i), Opening::default())?;
    }
    let (mut done, deadline) = (0, sys::now() + 300_000_000_000);
    while done < cycles {
        fleet.poll(1_000_000_000, |_, _, _| {})?;
        for i in std::mem::take(&mut fleet.joined) {
            done += 1;
            fleet.end(i, done % 2 == 0);
            if begun < cycles {
                begun += 1;
                fleet.open(i, plan.target.subscriber(begun), Opening::default())?;
            }
        }
        if !fleet.closed.is_empty() || sys::now() > deadline {
            let trouble = fleet.trouble.take().unwrap_or_default();
            return Err(io::Error::other(format!("{done} of {cycles} cycles: {trouble}")));
        }
    }
    Ok(())
}
