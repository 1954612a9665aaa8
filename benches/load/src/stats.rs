//! Measurements: CPU time and resident memory of a server, latency histograms, and the JSON report.

use std::fmt::Write;
use std::fs;

use crate::sys;

/// A server: its process and its descendants.
pub struct Server {
    pids: Vec<i32>,
}

impl Server {
    /// The process `pid` and its current descendants.
    pub fn of(pid: i32) -> Server {
        let mut pids = vec![pid];
        let mut at = 0;
        while at < pids.len() {
            pids.extend(children(pids[at]));
            at += 1;
        }
        Server { pids }
    }

    /// CPU time in nanoseconds, user and system, of all processes and threads.
    pub fn cpu(&self) -> u64 {
        self.pids.iter().map(|&pid| sys::process_cpu(pid).unwrap_or(0)).sum()
    }

    /// User and system time in clock ticks. Only their ratio is used.
    pub fn ticks(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for pid in &self.pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The process name in brackets may contain spaces, so parse the fields after it.
            let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11);
            let mut field = || fields.next().and_then(|f| f.parse().ok()).unwrap_or(0);
            sum = (sum.0 + field(), sum.1 + field());
        }
        sum
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> i64 {
        let pages = |pid| {
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            statm.split_whitespace().nth(1)?.parse::<i64>().ok()
        };
        self.pids.iter().filter_map(pages).sum::<i64>() * 4096
    }

    pub fn alive(&self) -> bool {
        sys::process_cpu(self.pids[0]).is_ok()
    }
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// Measures the CPU time of a server over an interval.
pub struct Meter {
    cpu: u64,
    ticks: (u64, u64),
    own_cpu: u64,
    started: u64,
}

/// Resources used since a [`Meter`] was started.
pub struct Usage {
    /// CPU time of the server in nanoseconds.
    pub cpu: f64,
    /// Fraction of it that was user time.
    pub user_share: f64,
    /// Elapsed time in nanoseconds.
    pub wall: f64,
    /// Fraction of a core used by the load generator. Near 1, the load generator is the bottleneck.
    pub load_share: f64,
}

impl Meter {
    pub fn start(server: &Server) -> Meter {
        Meter { cpu: server.cpu(), ticks: server.ticks(), own_cpu: own_cpu(), started: sys::now() }
    }

    pub fn stop(&self, server: &Server) -> Usage {
        let cpu = server.cpu().saturating_sub(self.cpu) as f64;
        let wall = (sys::now() - self.started) as f64;
        let (user, system) = server.ticks();
        let (user, system) = ((user - self.ticks.0) as f64, (system - self.ticks.1) as f64);
        let user_share = user / (user + system).max(1.0);
        Usage { cpu, user_share, wall, load_share: (own_cpu() - self.own_cpu) as f64 / wall }
    }
}

fn own_cpu() -> u64 {
    sys::process_cpu(std::process::id() as i32).unwrap_or(0)
}

/// Histogram of times in nanoseconds, in buckets of about 3 %.
pub struct Histogram {
    buckets: Vec<u64>,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; 64 * BUCKETS_PER_POWER], min: u64::MAX, max: 0 }
    }
}

const BUCKETS_PER_POWER: usize = 32;

impl Histogram {
    pub fn add(&mut self, ns: u64, times: u64) {
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
        let value = ns.max(BUCKETS_PER_POWER as u64);
        let power = 63 - value.leading_zeros() as usize;
        let step = (value >> (power - 5)) as usize - BUCKETS_PER_POWER;
        self.buckets[power * BUCKETS_PER_POWER + step] += times;
    }

    /// The quantile `part`, in microseconds.
    pub fn quantile_us(&self, part: f64) -> f64 {
        let all: u64 = self.buckets.iter().sum();
        let wanted = ((all as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let (power, step) = (i / BUCKETS_PER_POWER, i % BUCKETS_PER_POWER);
                let low = ((BUCKETS_PER_POWER + step) as u64) << (power - 5);
                return low.min(self.max) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// The smallest value in nanoseconds. `max` is the largest.
    pub fn min(&self) -> u64 {
        self.min
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1000.0
    }
}

/// A JSON object under construction.
#[derive(Default)]
pub struct Report {
    json: String,
}

impl Report {
    pub fn text(mut self, name: &str, value: &str) -> Report {
        self.name(name);
        let _ = write!(self.json, "\"{}\"", value.replace(['"', '\\', '\n', '\r'], " "));
        self
    }

    pub fn number(mut self, name: &str, value: f64) -> Report {
        self.name(name);
        let _ = write!(self.json, "{:.4}", if value.is_finite() { value } else { 0.0 });
        self
    }

    pub fn usage(self, usage: &Usage) -> Report {
        self.number("server_cpu_s", usage.cpu / 1e9)
            .number("user_share", usage.user_share)
            .number("wall_s", usage.wall / 1e9)
            .number("load_share", usage.load_share)
    }

    pub fn print(self) {
        println!("{{{}}}", self.json);
    }

    fn name(&mut self, name: &str) {
        if !self.json.is_empty() {
            self.json.push(',');
        }
        let _ = write!(self.json, "\"{name}\":");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_accuracy() {
        let mut h = Histogram::default();
        for ns in 1..=100_000 {
            h.add(ns, 1);
        }
        for part in [0.1, 0.5, 0.99] {
            let got = h.quantile_us(part) * 1000.0;
            let want = part * 100_000.0;
            assert!((got - want).abs() / want < 0.04, "{part}: {got} against {want}");
        }
    }
}
