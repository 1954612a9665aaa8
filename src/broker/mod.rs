//! The rules: who listens here, fan-out, limits. Synchronous; time is an argument; owns no task and no socket.

pub mod bus;
pub mod connection;
pub mod counters;
pub mod engine;
pub mod fanout;
pub mod hub;
pub mod observers;
mod outbox;
pub mod principal;
pub mod rate;
pub mod replies;
pub mod room;
pub mod rules;
pub mod session;
pub mod shared;
pub mod template;
mod watch;

pub use bus::Bus;
pub use connection::{Connection, ConnectionLimits, Held, Phase, Sent, Socket};
pub use counters::Counters;
pub use engine::{Engine, Now};
pub use hub::{Hub, Membership, Newcomer};
pub use principal::Principal;
pub use rate::RateLimit;
pub use replies::{Replies, ReplyLimits};
pub use rules::{Audience, ChannelLimits, ChannelRule, ChannelRules, SlowConsumer};
pub use session::Session;
pub use shared::Shared;
pub use template::Template;
