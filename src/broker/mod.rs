//! The rules of channels, connections and rooms. Synchronous: time is an argument; owns no task and no socket.

pub mod channel;
pub mod connection;
pub mod counters;
pub mod engine;
pub mod holder;
pub mod principal;
pub mod quota;
pub mod replies;
pub mod room;

pub use channel::claim_pattern::ClaimPattern;
pub use channel::hub::{Hub, JoinRequest, Membership};
pub use channel::rules::{Audience, ChannelLimits, ChannelRule, ChannelRules, SlowConsumer};
pub use channel::session::Session;
pub use connection::rate::RateLimit;
pub use connection::{BufferedSocket, Connection, ConnectionLimits, Phase, Sent, Socket};
pub use counters::Counters;
pub use engine::node_bus::NodeBus;
pub use engine::shared_store::SharedStore;
pub use engine::{Engine, Now};
pub use holder::Holder;
pub use principal::{Principal, claim, is_claim_name};
pub use replies::{Replies, ReplyLimits};
