//! Messages between the two peers of a room: in each of `n` rooms, one message is sent back and forth.

use std::io;

use super::{Plan, Repeatable, WARM_UP_SECS, pause, secs_to_ns};
use crate::client_pool::{ClientPool, OpenOptions};
use crate::stats::{Meter, Report};
use crate::sys;
use crate::ws;

pub fn run(plan: &Plan) -> io::Result<()> {
    let mut pool = plan.pool()?;
    pool.open_all(2 * plan.n, OpenOptions::default(), |i| plan.target.peer(i / 2))?;
    pause(&mut pool, 200_000_000)?;
    let mut rooms = Rooms { plan, pool, relayed: vec![0; plan.n], out_of_order: 0, to_return: Vec::new() };
    rooms.to_return = (0..plan.n).map(|room| (2 * room, 0)).collect();
    plan.measure_in_turns(rooms)
}

struct Rooms<'a> {
    plan: &'a Plan,
    pool: ClientPool,
    /// How often the message of each room was relayed, which is also its sequence number.
    relayed: Vec<u64>,
    out_of_order: u64,
    /// Messages that a peer has received and not returned yet: the peer and the next sequence number.
    to_return: Vec<(usize, u64)>,
}

impl Repeatable for Rooms<'_> {
    fn pool(&self) -> &ClientPool {
        &self.pool
    }

    fn poll(&mut self, timeout_ns: i64) -> io::Result<()> {
        let Rooms { plan, pool, relayed, out_of_order, to_return } = self;
        pool.poll(timeout_ns, |i, _, payload| {
            // The server's own frame on joining carries no sequence number.
            let Some(seq) = plan.target.seq(payload) else { return };
            let count = &mut relayed[i / 2];
            *out_of_order += u64::from(seq != *count || i % 2 == (seq % 2) as usize);
            *count += 1;
            to_return.push((i, *count));
        })?;
        if !pool.closed.is_empty() {
            let last_error = pool.last_error.take().unwrap_or_default();
            return Err(io::Error::other(format!("a peer was closed: {last_error}")));
        }
        Ok(())
    }

    fn measure(&mut self) -> io::Result<Report> {
        self.run(WARM_UP_SECS)?;
        let before = self.messages();
        let meter = Meter::start(&self.plan.server);
        self.run(self.plan.secs)?;
        let usage = meter.stop(&self.plan.server);
        let messages = self.messages() - before;
        self.wait_until_returned()?;
        Ok(Report::default()
            .number("cpu_us_per_message", usage.cpu / 1000.0 / messages as f64)
            .number("messages_per_s", messages as f64 / (usage.wall / 1e9))
            .number("messages", messages as f64)
            .number("incomplete", (self.plan.n - self.to_return.len()) as f64)
            .number("repeated", self.out_of_order as f64)
            .usage(&usage))
    }
}

impl Rooms<'_> {
    fn run(&mut self, secs: f64) -> io::Result<()> {
        let end = sys::now() + secs_to_ns(secs);
        while sys::now() < end {
            for (peer, number) in std::mem::take(&mut self.to_return) {
                self.pool.send(peer, &frame(self.plan, number))?;
            }
            self.poll(1_000_000_000)?;
        }
        Ok(())
    }

    /// Waits until no message is in flight, at most two seconds.
    fn wait_until_returned(&mut self) -> io::Result<()> {
        let end = sys::now() + 2_000_000_000;
        while self.to_return.len() < self.plan.n && sys::now() < end {
            self.poll(100_000_000)?;
        }
        Ok(())
    }

    fn messages(&self) -> u64 {
        self.relayed.iter().sum()
    }
}

fn frame(plan: &Plan, seq: u64) -> Vec<u8> {
    let (mut payload, mut frame) = (Vec::new(), Vec::new());
    plan.target.payload(seq, &mut payload);
    ws::client_frame(&mut frame, ws::TEXT, &payload);
    frame
}
