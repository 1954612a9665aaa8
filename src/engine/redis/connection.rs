//! Keeps one connection to Redis: opens it, pings it, and reconnects with exponential backoff.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::{
    ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, ScriptInvocation, ServerErrorKind, Value,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::keys::SCRIPTS;
use super::server::{RedisKind, Server, ServerConnection, field};
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// Waits between attempts to connect.
const FIRST_RECONNECT_WAIT: Duration = Duration::from_millis(50);
const MAX_RECONNECT_WAIT: Duration = Duration::from_secs(1);

/// Longest time from opening a connection until it is usable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of pushes that are received and not handled. Beyond it pushes are dropped, and every mirror resyncs.
const MAX_PUSHED_BYTES: usize = 64 * 1024 * 1024;

/// Memory of a push besides its data.
const PUSH_OVERHEAD_BYTES: usize = 256;

/// Keeps the current connection.
pub struct ConnectionKeeper(watch::Sender<Option<Arc<Connection>>>);

/// One connection, from its opening until it is lost.
pub struct Connection {
    /// Unique in this process.
    pub number: u64,
    connection: ServerConnection,
    /// When this changes, Redis may have lost its newest acknowledged writes.
    pub marker: String,
    opened: Instant,
    is_lost: AtomicBool,
    lost: Notify,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    Done,
    /// Redis has no memory left.
    Full,
    Failed,
}

/// The pushes of one connection, in order.
pub struct PushStream {
    received: mpsc::UnboundedReceiver<PushInfo>,
    bytes: Arc<AtomicUsize>,
}

/// The sending end of a [`PushStream`].
struct PushSender {
    sender: mpsc::UnboundedSender<PushInfo>,
    bytes: Arc<AtomicUsize>,
    /// The last push was dropped.
    is_overrun: AtomicBool,
}

impl Default for ConnectionKeeper {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl ConnectionKeeper {
    /// The current connection, or a refusal at once.
    pub fn connection(&self) -> Result<Arc<Connection>, Refusal> {
        self.0.borrow().clone().filter(|connection| !connection.is_lost()).ok_or_else(unavailable)
    }

    /// Waits for a connection, at most `max_wait`.
    pub async fn wait(&self, max_wait: Duration) -> Result<Arc<Connection>, Refusal> {
        let mut current = self.0.subscribe();
        let is_up =
            |connection: &Option<Arc<Connection>>| connection.as_ref().is_some_and(|connection| !connection.is_lost());
        match timeout(max_wait, current.wait_for(is_up)).await {
            Ok(Ok(connection)) => connection.clone().ok_or_else(unavailable),
            _ => Err(unavailable()),
        }
    }

    /// Drops the connection, for good if [`ConnectionKeeper::keep`] does not run.
    pub fn close(&self) {
        self.0.send_replace(None);
    }

    /// Runs until it is dropped, and calls `on_connected` for every new connection.
    pub async fn keep(&self, server: Server, kind: &RedisKind, on_connected: impl Fn(&Arc<Connection>, PushStream)) {
        let (mut pause, mut is_logged) = (FIRST_RECONNECT_WAIT, false);
        loop {
            let opening = timeout(CONNECT_TIMEOUT, Connection::open(&server, kind)).await;
            match opening.unwrap_or_else(|_| Err((ErrorKind::Io, "connect timeout").into())) {
                Ok((connection, pushes)) => {
                    tracing::info!("connected to redis");
                    (pause, is_logged) = (FIRST_RECONNECT_WAIT, false);
                    self.0.send_replace(Some(connection.clone()));
                    on_connected(&connection, pushes);
                    connection.watch().await;
                    self.0.send_replace(None);
                    tracing::warn!("lost connection to redis");
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(%error, "cannot connect to redis, retrying");
                    }
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(MAX_RECONNECT_WAIT);
        }
    }
}

impl Connection {
    async fn open(server: &Server, kind: &RedisKind) -> RedisResult<(Arc<Self>, PushStream)> {
        let (sender, pushes) = PushStream::new();
        let mut connection = server.connect(move |info| sender.push(info)).await?;
        let marker = marker(&mut connection, kind).await?;
        let load = SCRIPTS.all().map(|script| {
            let mut connection = connection.clone();
            async move { script.load_async(&mut connection).await }
        });
        for loaded in futures_util::future::join_all(load).await {
            // In a Cluster one master may be down; the others are still usable.
            if !connection.is_cluster() {
                loaded?;
            }
        }
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let (opened, is_lost) = (Instant::now(), AtomicBool::new(false));
        let opened_connection = Self { number, connection, marker, opened, is_lost, lost: Notify::new() };
        Ok((Arc::new(opened_connection), pushes))
    }

    /// Returns once the connection is lost.
    async fn watch(&self) {
        while !self.is_lost() {
            if timeout(PING_INTERVAL, self.lost.notified()).await.is_ok() {
                return;
            }
            // The library watches the connections of a Cluster.
            if let Some(mut one) = self.connection.one().cloned() {
                let ping: RedisResult<Value> = redis::cmd("PING").query_async(&mut one).await;
                if ping.is_err_and(|error| !is_command_error(&error)) {
                    self.mark_lost();
                }
            }
        }
    }

    /// Time since the connection was opened.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Ends the use of this connection; the keeper opens a new one.
    pub fn mark_lost(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        self.lost.notify_one();
    }

    /// Whether keys are spread over slots.
    pub fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// Whether pub/sub names are spread over slots as well, so that a publish returns the number of subscribers.
    pub fn is_sharded(&self) -> bool {
        self.connection.one().is_none()
    }

    /// The command that publishes, also for scripts.
    pub fn publish(&self) -> &'static str {
        if self.is_sharded() { "SPUBLISH" } else { "PUBLISH" }
    }

    pub async fn invoke<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, Refusal> {
        let mut connection = self.connection.clone();
        invocation.invoke_async(&mut connection).await.map_err(|error| self.failed(error))
    }

    pub async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Refusal> {
        let mut connection = self.connection.clone();
        command.query_async(&mut connection).await.map_err(|error| self.failed(error))
    }

    pub async fn write(&self, command: &redis::Cmd) -> WriteResult {
        let mut connection = self.connection.clone();
        match command.query_async::<Value>(&mut connection).await {
            Ok(_) => WriteResult::Done,
            Err(error) => {
                let is_full = error.code() == Some("OOM");
                let _ = self.failed(error);
                if is_full { WriteResult::Full } else { WriteResult::Failed }
            }
        }
    }

    pub async fn subscribe(&self, name: &str) -> Result<(), Refusal> {
        self.connection.clone().subscribe(name).await.map_err(|error| self.failed(error))
    }

    pub async fn unsubscribe(&self, name: &str) -> Result<(), Refusal> {
        self.connection.clone().unsubscribe(name).await.map_err(|error| self.failed(error))
    }

    /// Logs the cause. The command may have been executed.
    fn failed(&self, error: RedisError) -> Refusal {
        folded!(DEBUG, "", "redis command failed", %error);
        if !is_command_error(&error) && !self.is_cluster() {
            self.mark_lost();
        }
        unavailable()
    }
}

impl PushSender {
    /// Drops pushes beyond the limit, and sends one disconnection in their place, so that every mirror resyncs.
    fn push(&self, info: PushInfo) {
        if self.bytes.load(Ordering::Relaxed) < MAX_PUSHED_BYTES {
            self.is_overrun.store(false, Ordering::Relaxed);
            self.send(info);
        } else if !self.is_overrun.swap(true, Ordering::Relaxed) {
            self.send(PushInfo { kind: PushKind::Disconnection, data: Vec::new() });
        }
    }

    fn send(&self, info: PushInfo) {
        self.bytes.fetch_add(size_of_push(&info), Ordering::Relaxed);
        // The receiver is gone once the connection is closed.
        let _ = self.sender.send(info);
    }
}

impl PushStream {
    fn new() -> (PushSender, Self) {
        // Bounded by the bytes that the sender counts.
        let (sender, received) = mpsc::unbounded_channel();
        let bytes = Arc::<AtomicUsize>::default();
        (PushSender { sender, bytes: bytes.clone(), is_overrun: AtomicBool::new(false) }, Self { received, bytes })
    }

    /// `None` once the connection is closed.
    pub async fn next(&mut self) -> Option<PushInfo> {
        let info = self.received.recv().await?;
        self.bytes.fetch_sub(size_of_push(&info), Ordering::Relaxed);
        Some(info)
    }
}

/// Whether the error concerns the command alone, so that the connection is still usable.
fn is_command_error(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    match error.kind() {
        ErrorKind::Server(BusyLoading | MasterDown | ReadOnly) => false,
        kind => matches!(kind, ErrorKind::Server(_) | ErrorKind::Extension),
    }
}

pub fn unavailable() -> Refusal {
    Refusal::new(ErrorCode::EngineUnavailable, "engine is unavailable, retry later")
}

/// `aof` if acknowledged writes survive a restart, because Redis writes the file before it answers. Otherwise the id of
/// the Redis process: another process may lack the newest writes. In a Cluster the scripts append the id of the slot's
/// master. Nodes without sharded pub/sub have another marker, so that they never share an epoch with nodes that have it.
async fn marker(connection: &mut ServerConnection, kind: &RedisKind) -> RedisResult<String> {
    if connection.is_cluster() {
        return Ok(format!("cluster {}", if connection.one().is_some() { "plain " } else { "" }));
    }
    let persistence: String = redis::cmd("INFO").arg("persistence").query_async(connection).await?;
    // Before Redis 7, `aof_enabled` is 0 while the file is loaded.
    if field(&persistence, "loading") == Some("1") {
        return Err((ErrorKind::Server(ServerErrorKind::BusyLoading), "it is loading its data").into());
    }
    // Behind Sentinels this proves nothing: a replica that takes over may lack the newest writes.
    if *kind == RedisKind::Single && field(&persistence, "aof_enabled") == Some("1") {
        return Ok("aof".to_owned());
    }
    let server: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
    Ok(field(&server, "run_id").unwrap_or("unknown").to_owned())
}

/// The pub/sub name of a push.
pub fn name_of(push: &PushInfo) -> Option<&str> {
    match push.data.first()? {
        Value::BulkString(name) => std::str::from_utf8(name).ok(),
        _ => None,
    }
}

fn size_of_push(info: &PushInfo) -> usize {
    let of = |value: &Value| if let Value::BulkString(bytes) = value { bytes.len() } else { 0 };
    PUSH_OVERHEAD_BYTES + info.data.iter().map(of).sum::<usize>()
}

/// Between half of `pause` and all of it, so that nodes do not reconnect at the same time.
fn jittered(pause: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unhandled_pushes_are_bounded_and_gaps_reported() {
        let (sender, mut pushes) = PushStream::new();
        let large =
            || PushInfo { kind: PushKind::Message, data: vec![Value::BulkString(vec![0; MAX_PUSHED_BYTES / 4])] };
        // A Cluster's connection stays open after a gap, and may have another one.
        for _ in 0..2 {
            (0..10).for_each(|_| sender.push(large()));
            let mut kinds = Vec::new();
            while !pushes.received.is_empty() {
                kinds.extend(pushes.next().await.map(|push| push.kind));
            }
            let last = kinds.pop();
            assert_eq!(last, Some(PushKind::Disconnection));
            assert_eq!(kinds, vec![PushKind::Message; 4]);
        }
    }
}
