//! Limits of wrong codes: by network with rising limits, and in all. A network cannot use up what the others need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Wrong codes are counted over this window.
pub const WRONG_CODE_WINDOW: Duration = Duration::from_secs(60);

/// Wrong codes of one network in a window, by the length of its prefix: one customer, a site, a provider's block.
const IPV6_LIMITS: [(u8, u64); 3] = [(64, 10), (56, 20), (48, 60)];
const IPV4_LIMITS: [(u8, u64); 2] = [(32, 10), (24, 60)];

/// Wrong codes in a window of networks without an earlier one. A guesser needs a new block for each.
const MAX_FIRST_WRONG_CODES: u64 = 120;

/// Wrong codes in a window of all other networks together.
const MAX_REPEATED_WRONG_CODES: u64 = 180;

/// Wrong codes that are let through in any minute: it overlaps two windows at most.
pub const MAX_WRONG_CODES_PER_MINUTE: u64 = 2 * (MAX_FIRST_WRONG_CODES + MAX_REPEATED_WRONG_CODES);

/// The delay of an attempt just below a limit in all. Shorter than the timeout of the first message.
const MAX_ATTEMPT_DELAY: Duration = Duration::from_secs(2);

/// The networks of an address with their limits, the narrowest first.
pub fn networks_of(address: Option<IpAddr>) -> impl Iterator<Item = (IpNet, u64)> {
    let limits = match address {
        Some(IpAddr::V4(_)) => &IPV4_LIMITS[..],
        Some(IpAddr::V6(_)) => &IPV6_LIMITS[..],
        None => &[],
    };
    limits.iter().filter_map(move |(prefix, limit)| Some((IpNet::new(address?, *prefix).ok()?.trunc(), *limit)))
}

/// The wrong codes of a window that matter for one address.
#[derive(Clone, Debug, Default)]
pub struct WrongCodeCounts {
    /// Of its networks, the narrowest first, with their limits.
    pub networks: Vec<(u64, u64)>,
    pub first: u64,
    pub repeated: u64,
}

impl WrongCodeCounts {
    /// Whether one of its networks has had a wrong code. Clients without an address share one network.
    pub fn is_repeated(&self) -> bool {
        self.networks.last().is_none_or(|(count, _)| *count > 0)
    }

    /// How long the next attempt has to wait; `None` if it is refused.
    pub fn delay(&self) -> Option<Duration> {
        if self.networks.iter().any(|(count, limit)| count >= limit) {
            return None;
        }
        let (count, limit) = match self.is_repeated() {
            true => (self.repeated, MAX_REPEATED_WRONG_CODES),
            false => (self.first, MAX_FIRST_WRONG_CODES),
        };
        // The second half is slow, so that the rest lasts.
        let (late, half) = (count.saturating_sub(limit / 2), limit / 2);
        let part = u32::try_from(late).unwrap_or(u32::MAX);
        (count < limit).then(|| MAX_ATTEMPT_DELAY * part / u32::try_from(half).unwrap_or(u32::MAX))
    }
}

/// The wrong codes on this node.
#[derive(Default)]
pub struct WrongCodes {
    window: Option<Instant>,
    /// Bounded by the number of wrong codes in a window.
    networks: HashMap<IpNet, u64>,
    first: u64,
    repeated: u64,
}

impl WrongCodes {
    pub fn counts(&mut self, address: Option<IpAddr>, now: Instant) -> WrongCodeCounts {
        if self.window.is_none_or(|began| now.saturating_duration_since(began) >= WRONG_CODE_WINDOW) {
            *self = Self { window: Some(now), ..Self::default() };
        }
        let count = |(network, limit)| (self.networks.get(&network).copied().unwrap_or(0), limit);
        WrongCodeCounts {
            networks: networks_of(address).map(count).collect(),
            first: self.first,
            repeated: self.repeated,
        }
    }

    pub fn count(&mut self, address: Option<IpAddr>, now: Instant) {
        match self.counts(address, now).is_repeated() {
            true => self.repeated += 1,
            false => self.first += 1,
        }
        for (network, _) in networks_of(address) {
            *self.networks.entry(network).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guesses until `address` is refused, at most 100 times.
    fn guess(wrong: &mut WrongCodes, address: &str, now: Instant) -> usize {
        let address = Some(address.parse().unwrap());
        let allowed = (0..100).take_while(|_| {
            let is_allowed = wrong.counts(address, now).delay().is_some();
            if is_allowed {
                wrong.count(address, now);
            }
            is_allowed
        });
        allowed.count()
    }

    fn delay(wrong: &mut WrongCodes, address: &str, now: Instant) -> Option<Duration> {
        wrong.counts(Some(address.parse().unwrap()), now).delay()
    }

    #[test]
    fn limits_rise_with_network() {
        let (mut wrong, now) = (WrongCodes::default(), Instant::now());
        assert_eq!(guess(&mut wrong, "2001:db8:1:100::", now), 10);
        assert_eq!(guess(&mut wrong, "2001:db8:1:101::", now), 10);
        assert_eq!(guess(&mut wrong, "2001:db8:1:102::", now), 0, "the /56 has used its share");
        assert_eq!(guess(&mut wrong, "192.0.2.1", now), 10);
        assert_eq!(delay(&mut wrong, "2001:db8:1:200::", now), Some(Duration::ZERO), "others of the /48 are free");
        assert_eq!(delay(&mut wrong, "192.0.2.2", now), Some(Duration::ZERO));
        assert_eq!(guess(&mut wrong, "2001:db8:1:100::", now + WRONG_CODE_WINDOW), 10);
    }

    #[test]
    fn one_block_cannot_stop_others() {
        let (mut wrong, now) = (WrongCodes::default(), Instant::now());
        let guessed: usize = (0..60).map(|n| guess(&mut wrong, &format!("2001:db8:1:{n:x}00::"), now)).sum();
        assert_eq!(guessed, 60);
        assert_eq!(delay(&mut wrong, "2001:db8:2::", now), Some(Duration::ZERO));
        // Sixty blocks at once: their repeated guesses are limited together, first attempts are not.
        let guessed: usize = (0..60).map(|n| guess(&mut wrong, &format!("2001:db8:{:x}::", n + 16), now)).sum();
        assert!(guessed as u64 <= MAX_REPEATED_WRONG_CODES + 60, "{guessed}");
        assert!(delay(&mut wrong, "198.51.100.7", now).is_some_and(|delay| delay < MAX_ATTEMPT_DELAY));
    }

    #[test]
    fn all_together_are_slowed_then_bounded() {
        let (mut wrong, now) = (WrongCodes::default(), Instant::now());
        let mut delays = Vec::new();
        for n in 0..200u32 {
            let address = Some(IpAddr::from((n << 8).to_be_bytes()));
            let Some(delay) = wrong.counts(address, now).delay() else { break };
            delays.push(delay);
            wrong.count(address, now);
        }
        assert_eq!(delays.len() as u64, MAX_FIRST_WRONG_CODES);
        assert!(delays.is_sorted() && delays[60] == Duration::ZERO && delays[119] > Duration::from_secs(1));
        assert!(delays.iter().all(|delay| *delay < MAX_ATTEMPT_DELAY));
        let unknown = (0..1_000).take_while(|_| {
            let is_allowed = wrong.counts(None, now).delay().is_some();
            wrong.count(None, now);
            is_allowed
        });
        assert_eq!(unknown.count() as u64, MAX_REPEATED_WRONG_CODES);
    }
}
