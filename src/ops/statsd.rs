//! Counts and times of rooms for statsd, over UDP, with the names that dashboards of that system know. Counting is an
//! atomic addition; a task of its own sends what came together, so that nothing waits for the network.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::config::StatsdConfig;

/// At most this long after an event it is sent.
const FLUSH: Duration = Duration::from_millis(500);

/// The name is looked up again after this: servers move.
const RESOLVE: Duration = Duration::from_secs(60);

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one datagram: fits an Ethernet frame through a tunnel or two.
const MAX_DATAGRAM: usize = 1400;

/// Times kept between two flushes; more of them are not sent.
const MAX_TIMES: usize = 10_000;

/// What happens to rooms and their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomEvent {
    /// A connection came to a room.
    Create,
    /// A connection ended with its room's lifespan.
    Expired,
    /// A room ended at its limit of bytes.
    MaxData,
    /// A room ended at its limit of messages.
    MaxMessages,
    /// A peer was refused because the room was full.
    MaxConnections,
    /// A peer gave no sign of life for too long.
    Timeout,
    /// Somebody asked for a new room.
    RequestNew,
    /// Somebody asked for a room by its id.
    RequestExisting,
    /// Somebody asked for a room by an id that cannot be one.
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

    /// The metric, and its tag in the way of dogstatsd.
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

/// What is counted and not yet sent. All of it is dropped, and costs next to nothing, if statsd is not configured.
pub struct Statsd {
    config: Option<StatsdConfig>,
    counts: [AtomicU64; RoomEvent::ALL.len()],
    /// Milliseconds from the connect of a peer to its end.
    lengths: Mutex<Vec<u64>>,
}

impl Statsd {
    pub fn new(config: Option<StatsdConfig>) -> Self {
        Self { config, counts: Default::default(), lengths: Mutex::default() }
    }

    pub fn count(&self, event: RoomEvent) {
        if self.config.is_some() {
            self.counts[event as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A peer's connection ended, so long after its connect.
    pub fn time(&self, length: Duration) {
        if self.config.is_some() {
            let mut lengths = self.lengths.lock();
            if lengths.len() < MAX_TIMES {
                lengths.push(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    /// Sends what comes together until `stop`, and the rest then. Returns at once if statsd is not configured.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(config) = &self.config else { return };
        let mut sender = Sender::new(config);
        let mut ticks = interval(FLUSH);
        // After a stall one flush is due, not one for every tick that was missed.
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

    /// Lines of what is counted, in datagrams; they count as sent.
    fn take(&self, prefix: &str) -> Vec<String> {
        let mut datagrams = Datagrams(Vec::new());
        for event in RoomEvent::ALL {
            let count = self.counts[event as usize].swap(0, Ordering::Relaxed);
            if count > 0 {
                let (name, tag) = event.name();
                datagrams.add(format_args!("{prefix}.{name}:{count}|c{tag}"));
            }
        }
        for length in std::mem::take(&mut *self.lengths.lock()) {
            datagrams.add(format_args!("{prefix}.conn.length:{length}|ms"));
        }
        datagrams.0
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0) && self.lengths.lock().is_empty()
    }
}

/// Lines packed into datagrams, `\n` between them.
struct Datagrams(Vec<String>);

impl Datagrams {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        let line = line.to_string();
        match self.0.last_mut() {
            // Writing to a string cannot fail.
            Some(last) if last.len() + 1 + line.len() <= MAX_DATAGRAM => drop(write!(last, "\n{line}")),
            _ => self.0.push(line),
        }
    }
}

/// The socket, and where it sends to at the moment.
struct Sender<'a> {
    config: &'a StatsdConfig,
    target: Option<(UdpSocket, SocketAddr)>,
    resolved: Option<Instant>,
}

impl<'a> Sender<'a> {
    fn new(config: &'a StatsdConfig) -> Self {
        Self { config, target: None, resolved: None }
    }

    /// Without a target the counts stay where they are and are sent later, as one sum.
    async fn send(&mut self, statsd: &Statsd) {
        if statsd.is_empty() {
            return;
        }
        if self.resolved.is_none_or(|at| at.elapsed() >= RESOLVE) {
            self.resolve().await;
        }
        let Some((socket, address)) = &self.target else { return };
        for datagram in statsd.take(&self.config.prefix) {
            // That nobody listens is no reason to stop.
            let _ = socket.send_to(datagram.as_bytes(), *address).await;
        }
    }

    /// Looks the name up; the old address stays if that fails.
    async fn resolve(&mut self) {
        let is_first = self.resolved.replace(Instant::now()).is_none();
        let connected = timeout(PATIENCE, connect(self.config)).await.unwrap_or_else(|late| Err(late.into()));
        match connected {
            Ok(target) => self.target = Some(target),
            Err(error) if is_first => {
                tracing::warn!(host = self.config.host, %error, "statsd cannot be reached; it is tried again");
            }
            Err(error) => tracing::debug!(host = self.config.host, %error, "statsd cannot be reached"),
        }
    }
}

async fn connect(config: &StatsdConfig) -> io::Result<(UdpSocket, SocketAddr)> {
    let mut addresses = tokio::net::lookup_host((config.host.as_str(), config.port)).await?;
    let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let any = match address {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok((UdpSocket::bind((any, 0)).await?, address))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    async fn server() -> (UdpSocket, StatsdConfig) {
        // Whatever the name is here.
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
    async fn every_event_has_the_name_that_dashboards_know() {
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
    async fn one_event_is_sent_within_a_second() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        let (_stop, _task) = start(&statsd);
        for _ in 0..2 {
            statsd.count(RoomEvent::MaxMessages);
            let began = Instant::now();
            assert_eq!(receive(&server).await, "channelserver.conn.max.msg:1|c");
            // The rest is for a busy machine.
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }

    #[tokio::test]
    async fn what_is_left_at_the_stop_is_sent() {
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
    async fn many_times_go_into_datagrams_that_fit_and_the_rest_is_dropped() {
        let (server, config) = server().await;
        let statsd = Arc::new(Statsd::new(Some(config)));
        (0..2 * MAX_TIMES).for_each(|_| statsd.time(Duration::from_millis(1)));
        assert_eq!(statsd.lengths.lock().len(), MAX_TIMES);
        statsd.lengths.lock().truncate(100);
        let (_stop, _task) = start(&statsd);
        let (one, two, three) = (receive(&server).await, receive(&server).await, receive(&server).await);
        for datagram in [&one, &two, &three] {
            assert!(datagram.len() <= MAX_DATAGRAM, "{}", datagram.len());
        }
        assert_eq!([one, two, three].join("\n").lines().count(), 100);
    }

    #[tokio::test]
    async fn without_statsd_nothing_is_kept() {
        let statsd = Statsd::new(None);
        statsd.count(RoomEvent::Create);
        statsd.time(Duration::from_secs(1));
        assert!(statsd.is_empty());
        statsd.run(std::future::pending()).await;
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_stops_nothing_and_loses_no_counts() {
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
