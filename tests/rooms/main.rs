//! Rooms over real sockets: the older forms byte for byte, and the native form.

mod channelserver;
mod client;
mod document;
mod limits;
mod many_joiners;
mod native;
mod relay;
mod statsd;

const MAX_CONCURRENT_JOINS: usize = 200;

async fn start(more: &str) -> test_support::TestEnv {
    test_support::TestEnv::start(more).await
}
