//! Keeps one connection to Redis alive: opens it, watches it, opens it anew with growing waits.

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
use crate::protocol::{ErrorCode, Refusal};

/// Waits between attempts to connect.
const FIRST_RECONNECT_WAIT: Duration = Duration::from_millis(50);
const MAX_RECONNECT_WAIT: Duration = Duration::from_secs(1);

/// Longest time until a connection can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection on which nothing comes is tried.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that came from Redis and were not looked at yet. Beyond it everything is read anew.
const MAX_PUSHED_BYTES: usize = 64 * 1024 * 1024;

/// What a push takes besides its data.
const PUSH_OVERHEAD_BYTES: usize = 256;

/// The connection of now, for whoever needs it.
pub struct ConnectionKeeper(watch::Sender<Option<Arc<Connection>>>);

/// One connection, from its opening until it is lost.
pub struct Connection {
    /// Different for every connection of the process.
    pub number: u64,
    connection: ServerConnection,
    /// Another one means that the newest of what Redis acknowledged may be missing.
    pub marker: String,
    opened: Instant,
    is_lost: AtomicBool,
    lost: Notify,
}

/// What came of writing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    Done,
    /// There is no memory for it.
    Full,
    Failed,
}

/// What came for the subscriptions of a session, in its order.
pub struct PushStream {
    waiting: mpsc::UnboundedReceiver<PushInfo>,
    bytes: Arc<AtomicUsize>,
}

/// The other end of them.
struct Inbox {
    sender: mpsc::UnboundedSender<PushInfo>,
    bytes: Arc<AtomicUsize>,
    /// What came last was left out.
    is_overrun: AtomicBool,
}

impl Default for ConnectionKeeper {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl ConnectionKeeper {
    /// The connection, or a refusal at once.
    pub fn session(&self) -> Result<Arc<Connection>, Refusal> {
        self.0.borrow().clone().filter(|session| !session.is_lost()).ok_or_else(away)
    }

    /// Waits a little for a connection.
    pub async fn wait(&self, at_most: Duration) -> Result<Arc<Connection>, Refusal> {
        let mut current = self.0.subscribe();
        let is_up = |session: &Option<Arc<Connection>>| session.as_ref().is_some_and(|session| !session.is_lost());
        match timeout(at_most, current.wait_for(is_up)).await {
            Ok(Ok(session)) => session.clone().ok_or_else(away),
            _ => Err(away()),
        }
    }

    /// Drops the connection, for good if nobody keeps it alive.
    pub fn close(&self) {
        self.0.send_replace(None);
    }

    /// Runs until it is dropped. `up` is told of every new connection.
    pub async fn keep(&self, server: Server, kind: &RedisKind, up: impl Fn(&Arc<Connection>, PushStream)) {
        let (mut pause, mut is_told) = (FIRST_RECONNECT_WAIT, false);
        loop {
            let opening = timeout(CONNECT_TIMEOUT, Connection::open(&server, kind)).await;
            match opening.unwrap_or_else(|_| Err((ErrorKind::Io, "it does not answer").into())) {
                Ok((session, pushes)) => {
                    tracing::info!("connected to redis");
                    (pause, is_told) = (FIRST_RECONNECT_WAIT, false);
                    self.0.send_replace(Some(session.clone()));
                    up(&session, pushes);
                    session.watch().await;
                    self.0.send_replace(None);
                    tracing::warn!("lost the connection to redis");
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "cannot connect to redis; trying again until it answers");
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
        let (inbox, pushes) = PushStream::new();
        let mut connection = server.connect(move |info| inbox.push(info)).await?;
        let marker = marker(&mut connection, kind).await?;
        let load = SCRIPTS.all().map(|script| {
            let mut connection = connection.clone();
            async move { script.load_async(&mut connection).await }
        });
        for loaded in futures_util::future::join_all(load).await {
            // One dead master of a Cluster is no reason to be without the others, which have it.
            if !connection.is_cluster() {
                loaded?;
            }
        }
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let (opened, is_lost) = (Instant::now(), AtomicBool::new(false));
        let session = Self { number, connection, marker, opened, is_lost, lost: Notify::new() };
        Ok((Arc::new(session), pushes))
    }

    /// Returns once the connection is of no use any more.
    async fn watch(&self) {
        while !self.is_lost() {
            if timeout(PING_INTERVAL, self.lost.notified()).await.is_ok() {
                return;
            }
            // Others of a Cluster are the library's matter.
            if let Some(mut one) = self.connection.one().cloned() {
                let ping: RedisResult<Value> = redis::cmd("PING").query_async(&mut one).await;
                if ping.is_err_and(|error| !is_of_the_command(&error)) {
                    self.lose();
                }
            }
        }
    }

    /// For how long there is this connection.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// It is not used again.
    pub fn lose(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        self.lost.notify_one();
    }

    /// Whether keys live in slots.
    pub fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// Whether pub/sub lives in slots as well, so that whoever publishes is told how many hear it.
    pub fn is_sharded(&self) -> bool {
        self.connection.one().is_none()
    }

    /// The command that publishes, which scripts are told as well.
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

    /// The cause goes to the log. What was asked for may have happened.
    fn failed(&self, error: RedisError) -> Refusal {
        tracing::debug!(%error, "redis failed");
        if !is_of_the_command(&error) && !self.is_cluster() {
            self.lose();
        }
        away()
    }
}

impl Inbox {
    /// What is too much is left out, and stands for a lost connection: everything is read anew.
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
        // Nobody listens any more once the session is over.
        let _ = self.sender.send(info);
    }
}

impl PushStream {
    fn new() -> (Inbox, Self) {
        // Bounded by the bytes that the inbox counts.
        let (sender, waiting) = mpsc::unbounded_channel();
        let bytes = Arc::<AtomicUsize>::default();
        (Inbox { sender, bytes: bytes.clone(), is_overrun: AtomicBool::new(false) }, Self { waiting, bytes })
    }

    /// `None` once the session is over.
    pub async fn next(&mut self) -> Option<PushInfo> {
        let info = self.waiting.recv().await?;
        self.bytes.fetch_sub(size_of_push(&info), Ordering::Relaxed);
        Some(info)
    }
}

/// Whether the connection is still good.
fn is_of_the_command(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    match error.kind() {
        ErrorKind::Server(BusyLoading | MasterDown | ReadOnly) => false,
        kind => matches!(kind, ErrorKind::Server(_) | ErrorKind::Extension),
    }
}

pub fn away() -> Refusal {
    Refusal::new(ErrorCode::EngineUnavailable, "the engine is away; try again later")
}

/// `aof`: everything that was acknowledged comes back after a restart, because Redis writes it before it answers.
/// Otherwise it names the process: another one may have lost the newest. In a Cluster the scripts ask the slot's master,
/// and gateways that do not hear each other, because some began before its upgrade, never share an epoch.
async fn marker(connection: &mut ServerConnection, kind: &RedisKind) -> RedisResult<String> {
    if connection.is_cluster() {
        return Ok(format!("cluster {}", if connection.one().is_some() { "plain " } else { "" }));
    }
    let persistence: String = redis::cmd("INFO").arg("persistence").query_async(connection).await?;
    // Before Redis 7 the file counts as disabled while it is read.
    if field(&persistence, "loading") == Some("1") {
        return Err((ErrorKind::Server(ServerErrorKind::BusyLoading), "it reads its memory").into());
    }
    // What another server has of it is another matter.
    if *kind == RedisKind::Single && field(&persistence, "aof_enabled") == Some("1") {
        return Ok("aof".to_owned());
    }
    let server: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
    Ok(field(&server, "run_id").unwrap_or("unknown").to_owned())
}

fn size_of_push(info: &PushInfo) -> usize {
    let of = |value: &Value| if let Value::BulkString(bytes) = value { bytes.len() } else { 0 };
    PUSH_OVERHEAD_BYTES + info.data.iter().map(of).sum::<usize>()
}

/// Half of it to all of it, so that nodes do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pushes_that_nobody_looks_at_take_only_so_much_memory_and_each_gap_is_told() {
        let (inbox, mut pushes) = PushStream::new();
        let large =
            || PushInfo { kind: PushKind::Message, data: vec![Value::BulkString(vec![0; MAX_PUSHED_BYTES / 4])] };
        // A Cluster's connection lives on behind a gap, and may have another one.
        for _ in 0..2 {
            (0..10).for_each(|_| inbox.push(large()));
            let mut kinds = Vec::new();
            while !pushes.waiting.is_empty() {
                kinds.extend(pushes.next().await.map(|push| push.kind));
            }
            let told = kinds.pop();
            assert_eq!(told, Some(PushKind::Disconnection));
            assert_eq!(kinds, vec![PushKind::Message; 4]);
        }
    }
}
