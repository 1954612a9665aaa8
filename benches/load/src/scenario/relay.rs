//! Messages between the two peers of a room: in each of `n` rooms one message goes to and fro, as fast as it can.

use std::io;

use super::{Plan, Steady, WARM_UP, pause, seconds};
use crate::client_pool::{Fleet, Opening};
use crate::stats::{Meter, Report};
use crate::sys;
use crate::ws;

pub fn run(plan: &Plan) -> io::Result<()> {
    let mut fleet = plan.fleet()?;
    fleet.open_all(2 * plan.n, Opening::default(), |i| plan.target.peer(i / 2))?;
    pause(&mut fleet, 200_000_000)?;
    let mut rooms = Rooms { plan, fleet, relayed: vec![0; plan.n], wrong: 0, held: Vec::new() };
    rooms.held = (0..plan.n).map(|room| (2 * room, 0)).collect();
    plan.in_turns(rooms)
}

struct Rooms<'a> {
    plan: &'a Plan,
    fleet: Fleet,
    /// How often the message of each room was relayed: the number that it carries.
    relayed: Vec<u64>,
    wrong: u64,
    /// Messages that a peer has got and not sent back: the peer and the next number.
    held: Vec<(usize, u64)>,
}

impl Steady for Rooms<'_> {
    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn poll(&mut self, timeout_ns: i64) -> io::Result<()> {
        let Rooms { plan, fleet, relayed, wrong, held } = self;
        fleet.poll(timeout_ns, |i, _, payload| {
            // What the server itself says on joining carries no number.
            let Some(seq) = plan.target.seq(payload) else { return };
            let count = &mut relayed[i / 2];
            *wrong += u64::from(seq != *count || i % 2 == (seq % 2) as usize);
            *count += 1;
            held.push((i, *count));
        })?;
        if !fleet.closed.is_empty() {
            let trouble = fleet.trouble.take().unwrap_or_default();
            return Err(io::Error::other(format!("a peer was closed: {trouble}")));
        }
        Ok(())
    }

    fn measure(&mut self) -> io::Result<Report> {
        self.run(WARM_UP)?;
        let before = self.messages();
        let meter = Meter::start(&self.plan.server);
        self.run(self.plan.secs)?;
        let spent = meter.stop(&self.plan.server);
        let messages = self.messages() - before;
        self.collect()?;
        Ok(Report::default()
            .number("cpu_us_per_message", spent.cpu / 1000.0 / messages as f64)
            .number("messages_per_s", messages as f64 / (spent.wall / 1e9))
            .number("messages", messages as f64)
            .number("incomplete", (self.plan.n - self.held.len()) as f64)
            .number("repeated", self.wrong as f64)
            .spent(&spent))
    }
}

impl Rooms<'_> {
    fn run(&mut self, secs: f64) -> io::Result<()> {
        let end = sys::now() + seconds(secs);
        while sys::now() < end {
            for (peer, number) in std::mem::take(&mut self.held) {
                self.fleet.send(peer, &frame(self.plan, number))?;
            }
            self.poll(1_000_000_000)?;
        }
        Ok(())
    }

    /// Waits, at most two seconds, until no message is on its way.
    fn collect(&mut self) -> io::Result<()> {
        let end = sys::now() + 2_000_000_000;
        while self.held.len() < self.plan.n && sys::now() < end {
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
