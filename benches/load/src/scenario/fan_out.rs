//! Fan-out of publications: at a fixed rate, as fast as they arrive, and one at a time.

use std::io;

use super::{Checker, Plan, Repeatable, WARM_UP_SECS, secs_to_ns};
use crate::client_pool::ClientPool;
use crate::publisher::Publisher;
use crate::stats::{Histogram, Meter, Report};
use crate::sys;

/// State of the three fan-out scenarios: clients, publishers and deliveries.
struct FanOut<'a> {
    plan: &'a Plan,
    pool: ClientPool,
    publishers: Vec<Publisher>,
    checker: Checker,
    /// For each publication: the time it was sent, and the number of deliveries.
    sent: Vec<(u64, u32)>,
    /// Publications delivered to all their subscribers.
    complete: usize,
    latency: Histogram,
    /// Whether latency is measured. Off in `flood`: reading the clock per delivery would distort the result.
    timed: bool,
    measure: Measure<'a>,
}

type Measure<'a> = fn(&mut FanOut<'a>) -> io::Result<Report>;

impl Repeatable for FanOut<'_> {
    fn pool(&self) -> &ClientPool {
        &self.pool
    }

    fn poll(&mut self, timeout_ns: i64) -> io::Result<()> {
        let FanOut { plan, pool, checker, sent, complete, latency, timed, .. } = self;
        let channels = plan.target.channels;
        pool.poll(timeout_ns, |i, _, payload| {
            let Some(seq) = plan.target.seq(payload) else { return };
            checker.record(i, seq, payload.len());
            let channel = i % channels;
            let Some((at, got)) = sent.get_mut(seq as usize * channels + channel) else { return };
            *got += 1;
            if *timed {
                latency.add(sys::now() - *at, 1);
            }
            let subscribers = plan.n / channels + usize::from(channel < plan.n % channels);
            *complete += usize::from(*got as usize == subscribers);
        })?;
        if let Some(i) = pool.closed.first() {
            let error = pool.last_error.take().unwrap_or_default();
            return Err(io::Error::other(format!("subscriber {i} was closed: {error}")));
        }
        self.publishers.iter_mut().try_for_each(|p| p.serve(&self.pool))
    }

    fn measure(&mut self) -> io::Result<Report> {
        (self.measure)(self)
    }
}

impl<'a> FanOut<'a> {
    fn new(plan: &'a Plan, measure: Measure<'a>) -> io::Result<FanOut<'a>> {
        let pool = plan.subscribers(plan.n)?;
        let publishers = plan.publishers(&pool)?;
        let checker = Checker::new(plan.n);
        let (sent, latency) = (Vec::new(), Histogram::default());
        Ok(FanOut { plan, pool, publishers, checker, sent, complete: 0, latency, timed: true, measure })
    }

    /// Queues the next publication. Channels take turns, and each channel has one publisher.
    fn publish(&mut self) {
        let (id, target) = (self.sent.len(), &self.plan.target);
        let channel = id % target.channels;
        let publisher = channel % self.publishers.len();
        self.publishers[publisher].publish(target, channel, (id / target.channels) as u64);
        self.sent.push((sys::now(), 0));
    }

    fn flush(&mut self) -> io::Result<()> {
        self.publishers.iter_mut().try_for_each(|p| p.flush(&self.pool))
    }

    /// Waits until all publications are delivered, at most ten seconds.
    fn settle(&mut self) -> io::Result<()> {
        let deadline = sys::now() + 10_000_000_000;
        while self.complete < self.sent.len() && sys::now() < deadline {
            self.poll(100_000_000)?;
        }
        Ok(())
    }

    /// Sends `count` publications at the plan's rate, and waits for their delivery.
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

    /// Keeps the plan's number of publications in flight for `secs`.
    fn run_flood(&mut self, secs: f64) -> io::Result<()> {
        let end = sys::now() + secs_to_ns(secs);
        while sys::now() < end {
            let room = (self.complete + self.plan.in_flight).saturating_sub(self.sent.len());
            (0..room).for_each(|_| self.publish());
            self.flush()?;
            self.poll(1_000_000_000)?;
        }
        Ok(())
    }

    /// Nanoseconds until the first and the last subscriber received a publication; pauses afterwards.
    fn publish_one(&mut self) -> io::Result<(u64, u64)> {
        self.publish();
        let sent = sys::now();
        self.flush()?;
        self.latency = Histogram::default();
        while self.complete < self.sent.len() {
            self.poll(1_000_000_000)?;
            if sys::now() - sent > 5_000_000_000 {
                return Err(io::Error::other("a publication did not reach all subscribers within 5 s"));
            }
        }
        let rest = sys::now() + 3_000_000;
        while sys::now() < rest {
            self.poll(1_000_000)?;
        }
        Ok((self.latency.min(), self.latency.max()))
    }

    fn measure_paced(&mut self) -> io::Result<Report> {
        let plan = self.plan;
        self.run_paced((plan.rate * WARM_UP_SECS).ceil() as usize)?;
        let before = self.checker.deliveries;
        self.latency = Histogram::default();
        let meter = Meter::start(&plan.server);
        self.run_paced((plan.rate * plan.secs).ceil() as usize)?;
        let usage = meter.stop(&plan.server);
        let deliveries = self.checker.deliveries - before;
        let report = Report::default()
            .number("cpu_us_per_delivery", usage.cpu / 1000.0 / deliveries as f64)
            .number("p50_us", self.latency.quantile_us(0.5))
            .number("p99_us", self.latency.quantile_us(0.99))
            .number("max_us", self.latency.max_us());
        Ok(self.report(report).usage(&usage))
    }

    fn measure_flood(&mut self) -> io::Result<Report> {
        let plan = self.plan;
        self.run_flood(WARM_UP_SECS)?;
        let before = self.checker.deliveries;
        let meter = Meter::start(&plan.server);
        self.run_flood(plan.secs)?;
        let usage = meter.stop(&plan.server);
        let deliveries = self.checker.deliveries - before;
        self.settle()?;
        let report = Report::default()
            .number("deliveries_per_s", deliveries as f64 / (usage.wall / 1e9))
            .number("cpu_us_per_delivery", usage.cpu / 1000.0 / deliveries as f64);
        Ok(self.report(report).usage(&usage))
    }

    fn measure_alone(&mut self) -> io::Result<Report> {
        let (mut first, mut last) = (Histogram::default(), Histogram::default());
        let warm = sys::now() + secs_to_ns(WARM_UP_SECS);
        let end = warm + secs_to_ns(self.plan.secs);
        while sys::now() < end {
            let (first_ns, last_ns) = self.publish_one()?;
            if sys::now() > warm {
                first.add(first_ns, 1);
                last.add(last_ns, 1);
            }
        }
        let report = Report::default()
            .number("first_us", first.quantile_us(0.5))
            .number("last_us", last.quantile_us(0.5))
            .number("last_p99_us", last.quantile_us(0.99));
        Ok(self.report(report))
    }

    fn report(&mut self, report: Report) -> Report {
        self.checker.report(report).number("incomplete", (self.sent.len() - self.complete) as f64)
    }
}

/// CPU time per delivery at a fixed publication rate.
pub fn paced(plan: &Plan) -> io::Result<()> {
    plan.measure_in_turns(FanOut::new(plan, FanOut::measure_paced)?)
}

/// Deliveries per second with a fixed number of publications in flight.
pub fn flood(plan: &Plan) -> io::Result<()> {
    plan.measure_in_turns(FanOut { timed: false, ..FanOut::new(plan, FanOut::measure_flood)? })
}

/// Latency of the first and the last subscriber without other load.
pub fn alone(plan: &Plan) -> io::Result<()> {
    plan.measure_in_turns(FanOut::new(plan, FanOut::measure_alone)?)
}
