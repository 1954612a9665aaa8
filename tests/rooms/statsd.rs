//! Room metrics as a statsd server receives them.

use std::collections::BTreeMap;

use test_support::with_timeout;
use tokio::net::UdpSocket;

use crate::client::{env, pair, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statsd_names_match_dashboards() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let env =
        env(&format!("max_exchanges = 1\n[statsd]\nhost = \"127.0.0.1:{port}\"\nprefix = \"channelserver\"")).await;
    let (mut a, mut b) = pair(&env, "channelserver").await;
    a.send_text("one").await;
    b.text().await;
    a.send_text("two").await;
    a.expect_close(4506, "message_limit").await;
    b.expect_close(4506, "message_limit").await;
    assert!(try_open(&env, "pair", "/v1/ws/abcd", &[]).await.is_err());

    let wanted = BTreeMap::from([
        ("conn.create", 2),
        ("conn.max.msg", 1),
        ("conn.request|#new", 1),
        ("conn.request|#existing", 1),
        ("conn.request|#error", 1),
    ]);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut buffer = [0; 2000];
    let is_all = |seen: &BTreeMap<String, u64>| {
        wanted.iter().all(|(name, count)| seen.get(*name) == Some(count)) && seen.get("conn.length") == Some(&2)
    };
    while !is_all(&seen) {
        let length = with_timeout("a datagram", server.recv(&mut buffer)).await.unwrap();
        for line in std::str::from_utf8(&buffer[..length]).unwrap().lines() {
            let (name, rest) = line.strip_prefix("channelserver.").unwrap().split_once(':').unwrap();
            match *rest.split('|').collect::<Vec<_>>() {
                [count, "c"] => *seen.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap(),
                [count, "c", tag] => *seen.entry(format!("{name}|{tag}")).or_default() += count.parse::<u64>().unwrap(),
                [_, "ms"] => *seen.entry(name.to_owned()).or_default() += 1,
                _ => panic!("{line}"),
            }
        }
    }
}
