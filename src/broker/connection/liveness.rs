//! The watch over one connection: silence, stalls, deadlines. Counts sweeps, which come once a second.

use std::time::Duration;

use super::limits::ConnectionLimits;
use super::phase::Phase;
use crate::protocol::CloseReason;

#[derive(Debug)]
pub struct Liveness {
    /// Sweeps since something arrived.
    silent_sweeps: u16,
    /// Sweeps in which something waited and the socket took nothing.
    stalled_sweeps: u16,
    /// Sweeps since the close began.
    closing_sweeps: u16,
    /// Sweeps left for the first message; 0 when the peer is known.
    hello_sweeps: u16,
    /// Sweeps of silence after which this connection is pinged: spread, so that pings do not come in waves.
    ping_after: u16,
    /// Seconds since 1970; 0 for never.
    expires: u64,
}

/// What a sweep asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Ping,
    Close(CloseReason),
    /// The peer does not even take its Close.
    Abandon,
}

impl Liveness {
    pub fn new(id: u64, limits: &ConnectionLimits) -> Self {
        let ping = sweeps(limits.ping);
        let spread = u64::from(ping / 5) + 1;
        Self {
            silent_sweeps: 0,
            stalled_sweeps: 0,
            closing_sweeps: 0,
            hello_sweeps: 0,
            ping_after: ping - (id % spread) as u16,
            expires: 0,
        }
    }

    pub fn expect_hello(&mut self, within: Duration) {
        self.hello_sweeps = sweeps(within);
    }

    pub fn set_authenticated(&mut self, expires: Option<u64>) {
        self.hello_sweeps = 0;
        self.expires = expires.unwrap_or(0);
    }

    pub fn sweep(
        &mut self,
        heard: bool,
        waiting: bool,
        moved: bool,
        phase: Phase,
        now_unix: u64,
        limits: &ConnectionLimits,
    ) -> Action {
        match phase {
            Phase::Open => {}
            Phase::Closed(_) => return Action::None,
            Phase::Closing(_) => {
                self.closing_sweeps = self.closing_sweeps.saturating_add(1);
                return if self.closing_sweeps > sweeps(limits.close) { Action::Abandon } else { Action::None };
            }
        }
        self.stalled_sweeps = if waiting && !moved { self.stalled_sweeps.saturating_add(1) } else { 0 };
        self.silent_sweeps = if heard { 0 } else { self.silent_sweeps.saturating_add(1) };
        if self.expires != 0 && now_unix >= self.expires {
            return Action::Close(CloseReason::TokenExpired);
        }
        if self.stalled_sweeps > sweeps(limits.stall) {
            return Action::Close(CloseReason::SlowConsumer);
        }
        if self.hello_sweeps > 0 {
            self.hello_sweeps -= 1;
            if self.hello_sweeps == 0 {
                return Action::Close(CloseReason::Unauthenticated);
            }
        }
        if self.silent_sweeps == self.ping_after && limits.close_silent_without_ping.is_none() {
            return Action::Ping;
        }
        // A peer whose socket is full cannot be heard answering; the stall decides about it.
        if self.silent_sweeps > sweeps(limits.ping).saturating_add(whole(limits.pong)) && !waiting {
            return Action::Close(CloseReason::PingTimeout);
        }
        Action::None
    }
}

/// Whole seconds, at least one.
fn sweeps(time: Duration) -> u16 {
    whole(time).max(1)
}

fn whole(time: Duration) -> u16 {
    u16::try_from(time.as_secs()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        outbox_bytes: 1000,
        outbox_frames: 10,
        stall: Duration::from_secs(3),
        close: Duration::from_secs(2),
        ping: Duration::from_secs(10),
        pong: Duration::from_secs(4),
        close_silent_without_ping: None,
    };

    /// The sweeps at which something other than `Fine` was said, up to the first end.
    fn run(watch: &mut Liveness, mut event: impl FnMut(u64) -> (bool, bool, bool)) -> Vec<(u64, Action)> {
        let mut said = Vec::new();
        for second in 1..60 {
            let (heard, waiting, moved) = event(second);
            match watch.sweep(heard, waiting, moved, Phase::Open, second, &LIMITS) {
                Action::None => {}
                end @ Action::Close(_) => {
                    said.push((second, end));
                    break;
                }
                other => said.push((second, other)),
            }
        }
        said
    }

    #[test]
    fn w7_a_silent_peer_is_pinged_and_then_ended() {
        let said = run(&mut Liveness::new(0, &LIMITS), |_| (false, false, false));
        assert_eq!(said, [(10, Action::Ping), (15, Action::Close(CloseReason::PingTimeout))]);
        let said = run(&mut Liveness::new(1, &LIMITS), |second| (second == 12, false, false));
        assert_eq!(said[..2], [(9, Action::Ping), (21, Action::Ping)]);
    }

    #[test]
    fn w7_a_peer_that_is_not_asked_is_ended_after_its_silence() {
        let limits =
            ConnectionLimits { pong: Duration::ZERO, close_silent_without_ping: Some((1000, "bye")), ..LIMITS };
        let mut watch = Liveness::new(3, &limits);
        let verdicts = (1..=11).map(|second| watch.sweep(false, false, false, Phase::Open, second, &limits));
        let said: Vec<_> = verdicts.filter(|verdict| *verdict != Action::None).collect();
        assert_eq!(said, [Action::Close(CloseReason::PingTimeout)]);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_a_slow_consumer() {
        let said = run(&mut Liveness::new(0, &LIMITS), |second| (false, true, second < 5));
        assert_eq!(said, [(8, Action::Close(CloseReason::SlowConsumer))]);
    }

    #[test]
    fn the_first_message_has_a_deadline() {
        let mut watch = Liveness::new(0, &LIMITS);
        watch.expect_hello(Duration::from_secs(5));
        assert_eq!(run(&mut watch, |_| (true, false, false)), [(5, Action::Close(CloseReason::Unauthenticated))]);
    }

    #[test]
    fn t_j12_a_right_ends_at_its_second() {
        let mut watch = Liveness::new(0, &LIMITS);
        watch.set_authenticated(Some(7));
        assert_eq!(run(&mut watch, |_| (true, false, false)), [(7, Action::Close(CloseReason::TokenExpired))]);
    }

    #[test]
    fn a_close_that_is_not_taken_is_abandoned() {
        let mut watch = Liveness::new(0, &LIMITS);
        let phase = Phase::Closing(CloseReason::Draining);
        let verdicts: Vec<_> = (0..3).map(|_| watch.sweep(false, true, false, phase, 0, &LIMITS)).collect();
        assert_eq!(verdicts, [Action::None, Action::None, Action::Abandon]);
    }
}
