//! The scenarios. Each opens its clients, takes one kind of measurement and returns a report.

mod connections;
mod fan_out;
mod publish;
mod relay;
mod sleeper;

use std::io;

use crate::client_pool::{ClientPool, OpenOptions};
use crate::publisher::Publisher;
use crate::stats::{Report, Server};
use crate::sys;
use crate::target::Target;

/// Parameters of a scenario, with bounds on time and counts.
pub struct Plan {
    pub scenario: String,
    /// Number of subscribers, connections, rooms or cycles, depending on the scenario.
    pub n: usize,
    pub secs: f64,
    /// Publications per second, in `paced`.
    pub rate: f64,
    pub publishers: usize,
    pub in_flight: usize,
    /// Total bytes, in `sleeper`.
    pub volume: u64,
    /// Measure once for each line of standard input. Several servers can then be measured in turn while all keep
    /// their connections, so that a slow phase of the machine affects them alike.
    pub turns: bool,
    pub target: Target,
    pub server: Server,
}

pub const SCENARIO_NAMES: &str = "paced flood alone idle connect churn publish post sleeper relay";

/// Runs the scenario and prints its reports, one for each turn.
pub fn run(plan: &Plan) -> io::Result<()> {
    match plan.scenario.as_str() {
        "paced" => fan_out::paced(plan),
        "flood" => fan_out::flood(plan),
        "alone" => fan_out::alone(plan),
        "relay" => relay::run(plan),
        "idle" => plan.measure_once(connections::idle),
        "connect" => plan.measure_once(connections::connect),
        "churn" => plan.measure_once(connections::churn),
        "publish" => plan.measure_once(publish::stream),
        "post" => plan.measure_once(publish::post),
        "sleeper" => plan.measure_once(sleeper::run),
        other => Err(io::Error::other(format!("unknown scenario {other}; scenarios: {SCENARIO_NAMES}"))),
    }
}

impl Plan {
    fn measure_once(&self, measure: impl FnOnce(&Plan) -> io::Result<Report>) -> io::Result<()> {
        self.print(measure(self)?);
        Ok(())
    }

    /// Measures once, or in turns until standard input ends. Between turns the clients answer pings.
    fn measure_in_turns<S: Repeatable>(&self, mut state: S) -> io::Result<()> {
        if !self.turns {
            return self.measure_once(|_| state.measure());
        }
        state.pool().epoll.add(libc::STDIN_FILENO, sys::READABLE, u64::MAX)?;
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

    fn pool(&self) -> io::Result<ClientPool> {
        ClientPool::new(self.target.addresses())
    }

    fn subscribers(&self, n: usize) -> io::Result<ClientPool> {
        let mut pool = self.pool()?;
        pool.open_all(n, OpenOptions::default(), |i| self.target.subscriber(i))?;
        Ok(pool)
    }

    fn publishers(&self, pool: &ClientPool) -> io::Result<Vec<Publisher>> {
        (0..self.publishers).map(|k| Publisher::connect(&self.target, pool, k as u64)).collect()
    }
}

/// A scenario whose connections can be measured repeatedly.
trait Repeatable {
    fn pool(&self) -> &ClientPool;
    fn poll(&mut self, timeout_ns: i64) -> io::Result<()>;
    fn measure(&mut self) -> io::Result<Report>;
}

/// Time that a turn runs before it is measured, in seconds.
const WARM_UP_SECS: f64 = 0.3;

/// Checks that every subscriber gets every publication of its channel once and in order.
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

    fn record(&mut self, subscriber: usize, seq: u64, bytes: usize) {
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

    /// Adds the counts since the last report, and resets them.
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

/// Runs the clients for `ns` and ignores the frames they receive.
fn pause(pool: &mut ClientPool, ns: u64) -> io::Result<()> {
    let until = sys::now() + ns;
    while let Some(left) = until.checked_sub(sys::now()).filter(|left| *left > 0) {
        pool.poll(left as i64, |_, _, _| {})?;
    }
    Ok(())
}

fn secs_to_ns(secs: f64) -> u64 {
    (secs * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repetitions() {
        let mut checker = Checker::new(2);
        for (subscriber, seq) in [(0, 0), (0, 1), (1, 0), (0, 4), (0, 4), (0, 3), (1, 1)] {
            checker.record(subscriber, seq, 1);
        }
        assert_eq!((checker.deliveries, checker.lost, checker.repeated), (5, 2, 2));
    }
}
