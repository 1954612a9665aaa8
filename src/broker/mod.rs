//! The rules: who listens here, fan-out, limits. Synchronous; time is an argument; owns no task and no socket.

pub mod principal;
pub mod rate;
pub mod rules;

pub use principal::Principal;
pub use rate::RateLimit;
pub use rules::{Audience, ChannelLimits, ChannelRule, ChannelRules, SlowConsumer};
