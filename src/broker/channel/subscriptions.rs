//! The channels that one connection subscribes to.

use crate::broker::Membership;
use crate::protocol::{ChannelName, ErrorCode, Refusal};

#[derive(Default)]
pub struct Subscriptions {
    /// Sorted by channel: most connections have few.
    memberships: Vec<Membership>,
    last_tag: u64,
}

impl Subscriptions {
    /// Refuses a channel that is subscribed to already, and one more than `max`. Otherwise returns the tag of a new
    /// subscription ([`JoinRequest::tag`](crate::broker::JoinRequest::tag)).
    pub fn prepare(&mut self, channel: &ChannelName, max: usize) -> Result<u64, Refusal> {
        if self.get(channel).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.memberships.len() >= max {
            // Subscriptions that the gateway ended do not count.
            self.memberships.retain(Membership::is_active);
        }
        if self.memberships.len() >= max {
            return Err(Refusal::new(
                ErrorCode::LimitReached,
                "connection has too many subscriptions (max_subscriptions)",
            ));
        }
        self.last_tag += 1;
        Ok(self.last_tag)
    }

    /// Adds a subscription. One of the same channel that the gateway ended is replaced.
    pub fn insert(&mut self, membership: Membership) {
        match self.find(membership.channel()) {
            Ok(at) => self.memberships[at] = membership,
            Err(at) => {
                if self.memberships.is_empty() {
                    // Most connections have one subscription: no memory for four.
                    self.memberships.reserve_exact(1);
                }
                self.memberships.insert(at, membership);
            }
        }
    }

    /// `None` without an active subscription to the channel.
    pub fn get(&self, channel: &ChannelName) -> Option<&Membership> {
        self.find(channel).ok().map(|at| &self.memberships[at]).filter(|membership| membership.is_active())
    }

    /// Takes off the subscription to a channel; `None` without an active one.
    pub fn remove(&mut self, channel: &ChannelName) -> Option<Membership> {
        let at = self.find(channel).ok()?;
        Some(self.memberships.remove(at)).filter(Membership::is_active)
    }

    /// Takes off the active subscriptions whose channel `is_allowed` refuses.
    pub fn remove_forbidden(&mut self, is_allowed: impl Fn(&ChannelName) -> bool) -> Vec<Membership> {
        let active = std::mem::take(&mut self.memberships).into_iter().filter(Membership::is_active);
        let (kept, removed) = active.partition(|membership| is_allowed(membership.channel()));
        self.memberships = kept;
        removed
    }

    /// Whether `condition` holds for the channel of an active subscription.
    pub fn any(&self, condition: impl Fn(&ChannelName) -> bool) -> bool {
        self.memberships.iter().any(|membership| membership.is_active() && condition(membership.channel()))
    }

    fn find(&self, channel: &ChannelName) -> Result<usize, usize> {
        self.memberships.binary_search_by(|membership| membership.channel().cmp(channel))
    }
}
