//! The same rooms over two nodes on one Redis: every connection goes to the other node than the one before it, so that
//! most rooms have peers on both.

#[path = "../rooms/channelserver.rs"]
mod channelserver;
#[path = "../rooms/client.rs"]
mod client;
#[path = "../rooms/limits.rs"]
mod limits;
#[path = "../rooms/many_joiners.rs"]
mod many_joiners;
#[path = "../rooms/native.rs"]
mod native;
mod nodes;
#[path = "../rooms/relay.rs"]
mod relay;
#[path = "../rooms/statsd.rs"]
mod statsd;

use test_support::RedisServer;

/// As many as Redis answers within two seconds on a busy machine.
const MAX_CONCURRENT_JOINS: usize = 40;

async fn start(more: &str) -> test_support::TestEnv {
    start_nodes(2, more).await
}

async fn start_nodes(nodes: usize, more: &str) -> test_support::TestEnv {
    let server = RedisServer::start(false);
    let engine = engine(&server);
    test_support::TestEnv::start_nodes(nodes, &format!("{more}\n{engine}"), server).await
}

/// The table of a configuration that names this Redis.
fn engine(server: &RedisServer) -> String {
    format!("[engine]\nkind = \"redis\"\nurl = \"{}\"\n", server.url())
}
