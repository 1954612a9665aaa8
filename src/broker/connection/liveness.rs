//! Liveness of one connection: silence, stalls, deadlines. Counts sweeps, one a second.

use std::time::Duration;

use super::limits::ConnectionLimits;
use super::phase::Phase;
use crate::protocol::CloseReason;

#[derive(Debug)]
pub struct Liveness {
    /// Sweeps since the last input.
    silent_sweeps: u16,
    /// Sweeps in which frames waited and the socket accepted nothing.
    stalled_sweeps: u16,
    /// Sweeps since the close began.
    closing_sweeps: u16,
    /// Sweeps left for the first message; 0 once the peer is authenticated.
    hello_sweeps: u16,
    /// Sweeps of silence before a ping. Differs by connection, so that pings do not come in waves.
    ping_after: u16,
    /// Seconds since 1970 from which the connection closes; `u64::MAX` for never.
    expires: u64,
    expiry_reason: CloseReason,
    /// The gateway knows the peer, or admits peers without a credential here.
    is_admitted: bool,
}

/// How long a peer that was never admitted may take to answer a Close: it costs a place in the limits.
const UNADMITTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The action of the connection after a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Ping,
    Close(CloseReason),
    /// The peer did not read its Close in time.
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
            expires: u64::MAX,
            expiry_reason: CloseReason::TokenExpired,
            is_admitted: false,
        }
    }

    pub fn expect_hello(&mut self, within: Duration) {
        self.hello_sweeps = sweeps(within);
    }

    /// The first message has arrived.
    pub fn end_hello(&mut self) {
        self.hello_sweeps = 0;
    }

    pub fn set_authenticated(&mut self, expires: Option<u64>) {
        self.end_hello();
        self.is_admitted = true;
        self.expire_at(expires, CloseReason::TokenExpired);
    }

    pub fn expire_at(&mut self, expires: Option<u64>, reason: CloseReason) {
        self.expires = expires.unwrap_or(u64::MAX);
        self.expiry_reason = reason;
    }

    pub fn sweep(
        &mut self,
        has_input: bool,
        has_waiting: bool,
        has_progress: bool,
        phase: Phase,
        now_unix: u64,
        limits: &ConnectionLimits,
    ) -> Action {
        match phase {
            Phase::Open => {}
            Phase::Closed(_) => return Action::None,
            Phase::Closing(_) => {
                self.closing_sweeps = self.closing_sweeps.saturating_add(1);
                let timeout = if self.is_admitted { limits.close } else { limits.close.min(UNADMITTED_CLOSE_TIMEOUT) };
                return if self.closing_sweeps > sweeps(timeout) { Action::Abandon } else { Action::None };
            }
        }
        self.stalled_sweeps = if has_waiting && !has_progress { self.stalled_sweeps.saturating_add(1) } else { 0 };
        self.silent_sweeps = if has_input { 0 } else { self.silent_sweeps.saturating_add(1) };
        if now_unix >= self.expires {
            return Action::Close(self.expiry_reason);
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
        // A peer whose socket is full cannot receive the ping; the stall limit applies to it.
        if self.silent_sweeps > sweeps(limits.ping).saturating_add(whole_secs(limits.pong)) && !has_waiting {
            return Action::Close(CloseReason::PingTimeout);
        }
        Action::None
    }
}

/// Seconds, at least one.
fn sweeps(time: Duration) -> u16 {
    whole_secs(time).max(1)
}

fn whole_secs(time: Duration) -> u16 {
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

    /// The sweeps with an action, up to the first close.
    fn run(liveness: &mut Liveness, mut event: impl FnMut(u64) -> (bool, bool, bool)) -> Vec<(u64, Action)> {
        let mut actions = Vec::new();
        for second in 1..60 {
            let (has_input, has_waiting, has_progress) = event(second);
            match liveness.sweep(has_input, has_waiting, has_progress, Phase::Open, second, &LIMITS) {
                Action::None => {}
                end @ Action::Close(_) => {
                    actions.push((second, end));
                    break;
                }
                other => actions.push((second, other)),
            }
        }
        actions
    }

    #[test]
    fn silent_peer_is_pinged_then_closed() {
        let actions = run(&mut Liveness::new(0, &LIMITS), |_| (false, false, false));
        assert_eq!(actions, [(10, Action::Ping), (15, Action::Close(CloseReason::PingTimeout))]);
        let actions = run(&mut Liveness::new(1, &LIMITS), |second| (second == 12, false, false));
        assert_eq!(actions[..2], [(9, Action::Ping), (21, Action::Ping)]);
    }

    #[test]
    fn silent_peer_is_closed_without_ping() {
        let limits =
            ConnectionLimits { pong: Duration::ZERO, close_silent_without_ping: Some((1000, "bye")), ..LIMITS };
        let mut liveness = Liveness::new(3, &limits);
        let all = (1..=11).map(|second| liveness.sweep(false, false, false, Phase::Open, second, &limits));
        let actions: Vec<_> = all.filter(|action| *action != Action::None).collect();
        assert_eq!(actions, [Action::Close(CloseReason::PingTimeout)]);
    }

    #[test]
    fn stalled_socket_is_slow_consumer() {
        let actions = run(&mut Liveness::new(0, &LIMITS), |second| (false, true, second < 5));
        assert_eq!(actions, [(8, Action::Close(CloseReason::SlowConsumer))]);
    }

    #[test]
    fn first_message_has_deadline() {
        let mut liveness = Liveness::new(0, &LIMITS);
        liveness.expect_hello(Duration::from_secs(5));
        assert_eq!(run(&mut liveness, |_| (true, false, false)), [(5, Action::Close(CloseReason::Unauthenticated))]);
    }

    #[test]
    fn token_expiry_closes_at_its_second() {
        let mut liveness = Liveness::new(0, &LIMITS);
        liveness.set_authenticated(Some(7));
        assert_eq!(run(&mut liveness, |_| (true, false, false)), [(7, Action::Close(CloseReason::TokenExpired))]);
    }

    #[test]
    fn unread_close_is_abandoned() {
        let limits = ConnectionLimits { close: Duration::from_secs(5), ..LIMITS };
        for (is_admitted, sweeps) in [(true, 5), (false, 2)] {
            let mut liveness = Liveness::new(0, &limits);
            if is_admitted {
                liveness.set_authenticated(None);
            }
            let phase = Phase::Closing(CloseReason::Draining);
            let mut sweep = || liveness.sweep(false, true, false, phase, 0, &limits);
            assert!((0..sweeps).all(|_| sweep() == Action::None), "{is_admitted}");
            assert_eq!(sweep(), Action::Abandon, "{is_admitted}");
        }
    }
}
