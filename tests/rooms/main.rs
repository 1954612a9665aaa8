//! Rooms over real sockets: what unchanged clients of the older systems see byte for byte, and our own form.

mod channelserver;
mod client;
mod document;
mod limits;
mod many_joiners;
mod native;
mod relay;
mod statsd;

/// What is done at the same time where there is much of it.
const MAX_CONCURRENT_JOINS: usize = 200;

async fn start(more: &str) -> test_support::TestEnv {
    test_support::TestEnv::start(more).await
}
