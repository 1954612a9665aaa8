//! One publication to many: at a fixed pace, as fast as they arrive, and one at a time.

use std::io;

use super::{Checker, Plan, seconds};
use crate::fleet::Fleet;
use crate::publisher::Publisher;
use crate::stats::{Histogram, Meter, Report};
use crate::sys;

/// All that the three have in common: clients, publishers, and who got what.
struct Stage<'a> {
    plan: &'a Plan,
    fleet: Fleet,
    publishers: Vec<Publisher>,
    checker: Checker,
    /// When each publication was sent, and how many got it.
    sent: Vec<(u64, u32)>,
    /// Publications that all their subscribers have.
    complete: usize,
    latency: Histogram,
    /// Off where a look at the clock for each delivery would be what is measured.
    timed: bool,
}

impl<'a> Stage<'a> {
    fn new(plan: &'a Plan) -> io::Result<Stage<'a>> {
        let fleet = plan.subscribers(plan.n)?;
        let publishers = plan.publishers(&fleet)?;
        let checker = Checker::new(plan.n);
        let (sent, latency) = (Vec::new(), Histogram::default());
        Ok(Stage { plan, fleet, publishers, checker, sent, complete: 0, latency, timed: true })
    }

    /// Queues the next publication: they take the channels in turn, and a channel has one publisher.
    fn publish(&mut self) {
        let (id, target) = (self.sent.len(), &self.plan.target);
        let channel = id % target.channels;
        let publisher = channel % self.publishers.len();
        self.publishers[publisher].publish(target, channel, (id / target.channels) as u64);
        self.sent.push((sys::now(), 0));
    }

    fn flush(&mut self) -> io::Result<()> {
        self.publishers.iter_mut().try_for_each(|p| p.flush(&self.fleet))
    }

    fn poll(&mut self, timeout_ns: i64) -> io::Result<()> {
        let Stage { plan, fleet, checker, sent, complete, latency, timed, .. } = self;
        let channels = plan.target.channels;
        fleet.poll(timeout_ns, |i, _, payload| {
            let Some(seq) = plan.target.seq(payload) else { return };
            checker.see(i, seq, payload.len());
            let channel = i % channels;
            let Some((at, got)) = sent.get_mut(seq as usize * channels + channel) else { return };
            *got += 1;
            if *timed {
                latency.add(sys::now() - *at, 1);
            }
            let listeners = plan.n / channels + usize::from(channel < plan.n % channels);
            *complete += usize::from(*got as usize == listeners);
        })?;
        if let Some(i) = fleet.closed.first() {
            let why = fleet.trouble.take().unwrap_or_default();
            return Err(io::Error::other(format!("subscriber {i} was closed: {why}")));
        }
        self.publishers.iter_mut().try_for_each(|p| p.serve(&self.fleet))
    }

    /// Waits until everything that was published has arrived, at most for ten seconds.
    fn settle(&mut self) -> io::Result<()> {
        let deadline = sys::now() + 10_000_000_000;
        while self.complete < self.sent.len() && sys::now() < deadline {
            self.poll(100_000_000)?;
        }
        Ok(())
    }

    /// Sends `count` publications at the plan's rate, and waits for them.
    fn run_paced(&mut self, count: usize) -> io::Result<()> {
        let start = sys::now();
        for k in 0..count {
            let due = start + (k as f64 / self.plan.rate * 1e9) as u64;
            while let Some(left) = due.checked_sub(sys::now()).filter(|left| *left > 0) {
                self.poll(left as i64)?;
            }
            self.publish();
            self.flush()?;
        }
        self.settle()
    }
}

/// CPU per delivery at a fixed rate of publications.
pub fn paced(plan: &Plan) -> io::Result<Report> {
    let mut stage = Stage::new(plan)?;
    stage.run_paced((plan.rate / 2.0).ceil() as usize)?;
    let before = stage.checker.deliveries;
    stage.latency = Histogram::default();
    let count = (plan.rate * plan.secs).ceil() as usize;
    let meter = Meter::start(&plan.server);
    stage.run_paced(count)?;
    let spent = meter.stop(&plan.server);
    let deliveries = stage.checker.deliveries - before;
    let missing = stage.sent.len() - stage.complete;
    let report = Report::default()
        .number("cpu_us_per_delivery", spent.cpu / 1000.0 / deliveries as f64)
        .number("p50_us", stage.latency.quantile_us(0.5))
        .number("p99_us", stage.latency.quantile_us(0.99))
        .number("max_us", stage.latency.max_us())
        .number("incomplete", missing as f64);
    Ok(stage.checker.report(report).spent(&spent))
}

/// Deliveries per second with a fixed number of publications in flight.
pub fn flood(plan: &Plan) -> io::Result<Report> {
    let mut stage = Stage::new(plan)?;
    stage.timed = false;
    let begin = sys::now() + seconds((plan.secs / 4.0).min(1.0));
    let mut measured: Option<(Meter, u64, u64)> = None;
    let spent_and_deliveries = loop {
        let room = (stage.complete + plan.in_flight).saturating_sub(stage.sent.len());
        (0..room).for_each(|_| stage.publish());
        stage.flush()?;
        stage.poll(1_000_000_000)?;
        let now = sys::now();
        match &measured {
            None if now >= begin => {
                measured = Some((Meter::start(&plan.server), stage.checker.deliveries, now + seconds(plan.secs)));
            }
            Some((meter, before, end)) if now >= *end => {
                break (meter.stop(&plan.server), stage.checker.deliveries - before);
            }
            _ => {}
        }
    };
    let (spent, deliveries) = spent_and_deliveries;
    stage.settle()?;
    let report = Report::default()
        .number("deliveries_per_s", deliveries as f64 / (spent.wall / 1e9))
        .number("cpu_us_per_delivery", spent.cpu / 1000.0 / deliveries as f64)
        .number("incomplete", (stage.sent.len() - stage.complete) as f64);
    Ok(stage.checker.report(report).spent(&spent))
}

/// Latency of the first and of the last subscriber when nothing else is going on.
pub fn alone(plan: &Plan) -> io::Result<Report> {
    let mut stage = Stage::new(plan)?;
    let (mut first, mut last) = (Histogram::default(), Histogram::default());
    let end = sys::now() + seconds(plan.secs);
    let mut round = 0;
    while sys::now() < end || round < 30 {
        let id = stage.sent.len();
        stage.publish();
        let sent = sys::now();
        stage.flush()?;
        stage.latency = Histogram::default();
        while stage.complete <= id {
            stage.poll(1_000_000_000)?;
            if sys::now() - sent > 5_000_000_000 {
                return Err(io::Error::other("a publication did not reach everyone within 5 s"));
            }
        }
        round += 1;
        // The first ones warm the caches.
        if round > 10 {
            first.add((stage.latency.quantile_us(0.0) * 1000.0) as u64, 1);
            last.add((stage.latency.max_us() * 1000.0) as u64, 1);
        }
        let rest = sys::now() + 3_000_000;
        while sys::now() < rest {
            stage.poll(1_000_000)?;
        }
    }
    let report = Report::default()
        .number("first_us", first.quantile_us(0.5))
        .number("last_us", last.quantile_us(0.5))
        .number("last_p99_us", last.quantile_us(0.99))
        .number("publications", f64::from(round));
    Ok(stage.checker.report(report))
}
