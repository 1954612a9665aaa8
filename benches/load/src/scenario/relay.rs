//! Messages between the two peers of a room: in each of `n` rooms one message goes to and fro, as fast as it can.

use std::io;

use super::{Plan, pause, seconds};
use crate::fleet::Opening;
use crate::stats::{Meter, Report};
use crate::sys;
use crate::ws;

pub fn run(plan: &Plan) -> io::Result<Report> {
    let mut fleet = plan.fleet()?;
    fleet.open_all(2 * plan.n, Opening::default(), |i| plan.target.peer(i / 2))?;
    pause(&mut fleet, 200_000_000)?;
    // The number of a message is how often it was relayed in its room.
    let mut relayed = vec![0u64; plan.n];
    let mut wrong = 0;
    for room in 0..plan.n {
        fleet.send(2 * room, &frame(plan, 0))?;
    }
    let begin = sys::now() + seconds((plan.secs / 4.0).min(1.0));
    let mut measured: Option<(Meter, u64, u64)> = None;
    let mut arrived = Vec::new();
    let (spent, messages) = loop {
        arrived.clear();
        fleet.poll(1_000_000_000, |i, _, payload| {
            // What the server itself says on joining carries no number.
            let Some(seq) = plan.target.seq(payload) else { return };
            let count = &mut relayed[i / 2];
            wrong += u64::from(seq != *count || i % 2 == (seq % 2) as usize);
            *count += 1;
            arrived.push((i, *count));
        })?;
        for (i, next) in &arrived {
            fleet.send(*i, &frame(plan, *next))?;
        }
        if !fleet.closed.is_empty() {
            let trouble = fleet.trouble.take().unwrap_or_default();
            return Err(io::Error::other(format!("a peer was closed: {trouble}")));
        }
        let (now, all) = (sys::now(), relayed.iter().sum::<u64>());
        match &measured {
            None if now >= begin => measured = Some((Meter::start(&plan.server), all, now + seconds(plan.secs))),
            Some((meter, before, end)) if now >= *end => break (meter.stop(&plan.server), all - before),
            _ => {}
        }
    };
    Ok(Report::default()
        .number("cpu_us_per_message", spent.cpu / 1000.0 / messages as f64)
        .number("messages_per_s", messages as f64 / (spent.wall / 1e9))
        .number("messages", messages as f64)
        .number("lost", 0.0)
        .number("repeated", wrong as f64)
        .spent(&spent))
}

fn frame(plan: &Plan, seq: u64) -> Vec<u8> {
    let (mut payload, mut frame) = (Vec::new(), Vec::new());
    plan.target.payload(seq, &mut payload);
    ws::client_frame(&mut frame, ws::TEXT, &payload);
    frame
}
