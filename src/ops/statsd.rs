//! Counts and durations of rooms for statsd over UDP, with channelserver's metric names.
//!
//! Counting is an atomic addition. A task of its own sends the sums, so rooms never wait for the network.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::config::StatsdConfig;

const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// The server's address may change, so the name is resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Fits into an Ethernet frame, even through tunnels.
const MAX_DATAGRAM_BYTES: usize = 1400;

/// Durations kept between two flushes; further ones are dropped.
const MAX_DURATIONS: usize = 10_000;

/// An event of a room or its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomEvent {
    /// A connection joined a room.
    Create,
    /// A connection ended at its room's lifespan.
    Expired,
    /// A room reached its limit of bytes and ended.
    MaxData,
    /// A room reached its limit of messages and ended.
    MaxMessages,
    /// A peer was refused because the room was full.
    MaxConnections,
    /// A peer was silent for too long.
    Timeout,
    /// A request for a new room.
    RequestNew,
    /// A request for a room by its id.
    RequestExisting,
    /// A request with an invalid room id.
    RequestError,
}

impl RoomEvent {
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Expired,
        Self::MaxData,
        Self::MaxMessages,
        Self::MaxConnections,
        Self::Timeout,
        Self::RequestNew,
        Self::RequestExisting,
        Self::RequestError,
    ];

    /// Returns the metric name and its dogstatsd tag.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Create => ("conn.create", ""),
            Self::Expired => ("conn.expired", ""),
            Self::MaxData => ("conn.max.data", ""),
            Self::MaxMessages => ("conn.max.msg", ""),
            Self::MaxConnections => ("conn.max.conn", ""),
            Self::Timeout => ("conn.timeout", ""),
            Self::RequestNew => ("conn.request", "|#new"),
            Self::RequestExisting => ("conn.request", "|#existing"),
            Self::RequestError => ("conn.request", "|#error"),
        }
    }
}

/// Counts and durations that are not sent yet. Without a configuration, nothing is counted.
pub struct Statsd {
    config: Option<StatsdConfig>,
    counts: [AtomicU64; RoomEvent::ALL.len()],
    /// Duration of each ended connection of a peer, in milliseconds.
    durations_ms: Mutex<Vec<u64>>,
}

impl Statsd {
    pub fn new(config: Option<StatsdConfig>) -> Self {
        Self { config, counts: Default::default(), durations_ms: Mutex::default() }
    }

    pub fn count(&self, event: RoomEvent) {
        if self.config.is_some() {
            self.counts[event as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records the duration of an ended connection of a peer.
    pub fn time(&self, duration: Duration) {
        if self.config.is_some() {
            let mut durations = self.durations_ms.lock();
            if durations.len() < MAX_DURATIONS {
                durations.push(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    /// Sends the sums at each interval until `stop`, then once more; nothing without a configuration.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(config) = &self.config else { return stop.await };
        let mut sender = Sender::new(config);
        let mut ticks = interval(FLUSH_INTERVAL);
        // After a stall one flush is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = &mut stop => break,
            }
            sender.send(self).await;
        }
        sender.send(self).await;
    }

    /// Resets the counts and returns them as datagrams.
    fn take(&self, prefix: &str) -> Vec<String> {
        let mut datagrams = Datagrams(Vec::new());
        for event in RoomEvent::ALL {
            let count = self.counts[event as usize].swap(0, Ordering::Relaxed);
            if count > 0 {
                let (name, tag) = event.name();
                datagrams.add(format_args!("{prefix}.{name}:{count}|c{tag}"));
            }
        }
        for duration in std::mem::take(&mut *self.durations_ms.lock()) {
            datagrams.add(format_args!("{prefix}.conn.length:{duration}|ms"));
        }
        datagrams.0
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0) && self.durations_ms.lock().is_empty()
    }
}

/// Packs lines into datagrams, separated by `\n`.
struct Datagrams(Vec<String>);

impl Datagrams {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        let line = line.to_string();
        match self.0.last_mut() {
            // Writing to a string cannot fail.
            Some(last) if last.len() + 1 + line.len() <= MAX_DATAGRAM_BYTES => drop(write!(last, "\n{line}")),
            _ => self.0.push(line),
        }
    }
}

/// The socket and the current address of the server.
struct Sender<'a> {
    config: &'a StatsdConfig,
    target: Option<(UdpSocket, SocketAddr)>,
    resolved: Option<Instant>,
}

impl<'a> Sender<'a> {
    fn new(config: &'a StatsdConfig) -> Self {
        Self { config, target: None, resolved: None }
    }

    /// Without a target the counts are kept and sent later, as one sum.
    async fn send(&mut self, statsd: &Statsd) {
        if statsd.is_empty() {
            return;
        }
        if self.resolved.is_none_or(|at| at.elapsed() >= RESOLVE_INTERVAL) {
            self.resolve().await;
        }
        let Some((socket, address)) = &self.target else { return };
        for datagram in statsd.take(&self.config.prefix) {
            // UDP reports a closed port as an error, but statsd may be down temporarily.
            let _ = socket.send_to(datagram.as_bytes(), *address).await;
        }
    }

    /// Resolves the name; keeps the previous address on failure.
    async fn resolve(&mut self) {
        let is_first = self.resolved.replace(Instant::now()).is_none();
        let connected =
            timeout(RESOLVE_TIMEOUT, connect(self.config)).await.unwrap_or_else(|elapsed| Err(elapsed.into()));
        match connected {
            Ok(target) => self.target = Some(target),
            Err(error) if is_first => {
                tracing::warn!(host = self.config.host, %error, "statsd unreachable, retrying");
            }
            Err(error) => tracing::debug!(host = self.config.host, %error, "statsd unreachable"),
        }
    }
}

async fn connect(config: &StatsdConfig) -> io::Result<(UdpSocket, SocketAddr)> {
    let mut addresses = tokio::net::lookup_host((config.host.as_str(), config.port)).await?;
    let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let unspecified = match address {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok((UdpSocket::bind((unspecified, 0)).await?, address))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    async fn server() -> (UdpSocket, StatsdConfig) {
        // `localhost` may be IPv4 or IPv6.
        let socket = UdpSocket::bind("localhost:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, StatsdConfig { host: "localhost".to_owned(), port, prefix: "channelserver".to_owned() })
    }

    async fn receive(server: &UdpSocket) -> String {
        let mut buffer = vec![0; 2000];
        let length = timeout(Duration::from_secs(30), server.recv(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn start(statsd: &Arc<Statsd>) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let (stop, stopped) = oneshot::channel();
        let statsd = statsd.clone();
        let task = tokio::spawn(async move { statsd.run(async { drop(stopped.await) }).await });
        (stop, task)
    }

    #[tokio::test]
    async fn events_have_channelserver_names() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        RoomEvent::ALL.into_iter().for_each(|event| statsd.count(event));
        statsd.count(RoomEvent::Create);
        statsd.time(Duration::from_millis(802));
        let (_stop, _task) = start(&statsd);
        let lines = [
            "conn.create:2|c",
            "conn.expired:1|c",
            "conn.max.data:1|c",
            "conn.max.msg:1|c",
            "conn.max.conn:1|c",
            "conn.timeout:1|c",
            "conn.request:1|c|#new",
            "conn.request:1|c|#existing",
            "conn.request:1|c|#error",
            "conn.length:802|ms",
        ];
        assert_eq!(receive(&server).await, lines.map(|line| format!("channelserver.{line}")).join("\n"));
    }

    #[tokio::test]
    async fn single_event_is_sent_soon() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        let (_stop, _task) = start(&statsd);
        for _ in 0..2 {
            statsd.count(RoomEvent::MaxMessages);
            let began = Instant::now();
            assert_eq!(receive(&server).await, "channelserver.conn.max.msg:1|c");
            // Far above the interval, for a busy machine.
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }

    #[tokio::test]
    async fn remaining_counts_are_sent_at_stop() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        let (stop, task) = start(&statsd);
        tokio::task::yield_now().await;
        statsd.count(RoomEvent::Expired);
        stop.send(()).unwrap();
        assert_eq!(receive(&server).await, "channelserver.conn.expired:1|c");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn durations_are_packed_and_bounded() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        (0..2 * MAX_DURATIONS).for_each(|_| statsd.time(Duration::from_millis(1)));
        assert_eq!(statsd.durations_ms.lock().len(), MAX_DURATIONS);
        statsd.durations_ms.lock().truncate(100);
        let (_stop, _task) = start(&statsd);
        let (one, two, three) = (receive(&server).await, receive(&server).await, receive(&server).await);
        for datagram in [&one, &two, &three] {
            assert!(datagram.len() <= MAX_DATAGRAM_BYTES, "{}", datagram.len());
        }
        assert_eq!([one, two, three].join("\n").lines().count(), 100);
    }

    #[tokio::test]
    async fn disabled_statsd_keeps_nothing() {
        let statsd = Statsd::new(None);
        statsd.count(RoomEvent::Create);
        statsd.time(Duration::from_secs(1));
        assert!(statsd.is_empty());
        statsd.run(std::future::ready(())).await;
    }

    #[tokio::test]
    async fn unreachable_server_keeps_counts() {
        let config = StatsdConfig { host: "no-such-host.invalid".to_owned(), port: 8125, prefix: "p".to_owned() };
        let statsd = Arc::new(Statsd::new(Some(config)));
        statsd.count(RoomEvent::Create);
        let (stop, task) = start(&statsd);
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send(()).unwrap();
        timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
        assert!(!statsd.is_empty());
    }
}
