//! The scenarios. Each opens its clients, measures one thing and returns one report.

mod connections;
mod fan_out;
mod publish;
mod relay;
mod sleeper;

use std::io;

use crate::client_pool::{Fleet, Opening};
use crate::publisher::Publisher;
use crate::stats::{Report, Server};
use crate::sys;
use crate::target::Target;

/// What to run, with bounds on time and counts.
pub struct Plan {
    pub scenario: String,
    /// Subscribers, connections, pairs or cycles, as the scenario has it.
    pub n: usize,
    pub secs: f64,
    /// Publications or messages per second, where they are paced.
    pub rate: f64,
    pub publishers: usize,
    pub in_flight: usize,
    /// Bytes in all, for `sleeper`.
    pub volume: u64,
    /// Measure once for each line of standard input, so that several servers can be measured in turn while all
    /// of them keep their connections: a slow moment of the machine then meets them alike.
    pub turns: bool,
    pub target: Target,
    pub server: Server,
}

pub const NAMES: &str = "paced flood alone idle connect churn publish post sleeper relay";

/// Runs the scenario and prints its reports, one for each turn.
pub fn run(plan: &Plan) -> io::Result<()> {
    match plan.scenario.as_str() {
        "paced" => fan_out::paced(plan),
        "flood" => fan_out::flood(plan),
        "alone" => fan_out::alone(plan),
        "relay" => relay::run(plan),
        "idle" => plan.once(connections::idle),
        "connect" => plan.once(connections::connect),
        "churn" => plan.once(connections::churn),
        "publish" => plan.once(publish::stream),
        "post" => plan.once(publish::post),
        "sleeper" => plan.once(sleeper::run),
        other => Err(io::Error::other(format!("no scenario {other}; there are {NAMES}"))),
    }
}

impl Plan {
    fn once(&self, measure: impl FnOnce(&Plan) -> io::Result<Report>) -> io::Result<()> {
        self.print(measure(self)?);
        Ok(())
    }

    /// Measures once, or in turns until standard input ends. Between turns the clients go on answering pings.
    fn in_turns<S: Steady>(&self, mut state: S) -> io::Result<()> {
        if !self.turns {
            return self.once(|_| state.measure());
        }
        state.fleet().epoll.add(libc::STDIN_FILENO, sys::IN, u64::MAX)?;
        println!("ready");
        loop {
            match sys::stdin_line()? {
                Some(true) => self.print(state.measure()?),
                Some(false) => return Ok(()),
                None => state.poll(1_000_000_000)?,
            }
        }
    }

    fn print(&self, report: Report) {
        report.text("scenario", &self.scenario).number("n", self.n as f64).print();
    }

    fn fleet(&self) -> io::Result<Fleet> {
        Fleet::new(self.target.addresses())
    }

    fn subscribers(&self, n: usize) -> io::Result<Fleet> {
        let mut fleet = self.fleet()?;
        fleet.open_all(n, Opening::default(), |i| self.target.subscriber(i))?;
        Ok(fleet)
    }

    fn publishers(&self, fleet: &Fleet) -> io::Result<Vec<Publisher>> {
        (0..self.publishers).map(|k| Publisher::connect(&self.target, fleet, k as u64)).collect()
    }
}

/// A state that can be measured again and again.
trait Steady {
    fn fleet(&self) -> &Fleet;
    fn poll(&mut self, timeout_ns: i64) -> io::Result<()>;
    fn measure(&mut self) -> io::Result<Report>;
}

/// How long a turn runs before it is measured, in seconds.
const WARM_UP: f64 = 0.3;

/// Every subscriber must get every publication of its channel once and in order.
struct Checker {
    next: Vec<u64>,
    deliveries: u64,
    bytes: u64,
    lost: u64,
    repeated: u64,
}

impl Checker {
    fn new(subscribers: usize) -> Checker {
        Checker { next: vec![0; subscribers], deliveries: 0, bytes: 0, lost: 0, repeated: 0 }
    }

    fn see(&mut self, subscriber: usize, seq: u64, bytes: usize) {
        let next = &mut self.next[subscriber];
        if seq < *next {
            self.repeated += 1;
            return;
        }
        self.lost += seq - *next;
        *next = seq + 1;
        self.deliveries += 1;
        self.bytes += bytes as u64;
    }

    /// Adds what was counted since the last report.
    fn report(&mut self, report: Report) -> Report {
        let report = report
            .number("deliveries", self.deliveries as f64)
            .number("frame_bytes", self.bytes as f64 / self.deliveries.max(1) as f64)
            .number("lost", self.lost as f64)
            .number("repeated", self.repeated as f64);
        (self.deliveries, self.bytes, self.lost, self.repeated) = (0, 0, 0, 0);
        report
    }
}

/// Runs the clients for `ns` without looking at what they get.
fn pause(fleet: &mut Fleet, ns: u64) -> io::Result<()> {
    let until = sys::now() + ns;
    while let Some(left) = until.checked_sub(sys::now()).filter(|left| *left > 0) {
        fleet.poll(left as i64, |_, _, _| {})?;
    }
    Ok(())
}

fn seconds(secs: f64) -> u64 {
    (secs * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_a_loss_and_an_older_number_a_repetition() {
        let mut checker = Checker::new(2);
        for (subscriber, seq) in [(0, 0), (0, 1), (1, 0), (0, 4), (0, 4), (0, 3), (1, 1)] {
            checker.see(subscriber, seq, 1);
        }
        assert_eq!((checker.deliveries, checker.lost, checker.repeated), (5, 2, 2));
    }
}
