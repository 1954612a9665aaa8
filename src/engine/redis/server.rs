//! Connections to Redis: to one server, to the master that Sentinels name, or to a Cluster.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};
use tokio::sync::Mutex;

use super::cluster_key::{ClusterSecret, Unauthenticated};

/// A server that accepts no connection within this is unavailable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that does not answer within this is unavailable, and its connection is closed.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Retries of a Cluster's command: one for a slot that moved, one for a broken connection. Commands for a dead master must
/// fail fast, because all others wait while the library refreshes the slot map.
const MAX_RETRIES: u32 = 2;

/// Milliseconds before a retry.
const MAX_RETRY_WAIT_MS: u64 = 20;

/// Commands in the send buffer of a connection. Commands beyond it could be reordered, so this is far more than the engine
/// sends at once.
const MAX_PIPELINED_COMMANDS: usize = 64 * 1024;

/// The configured addresses of Redis. They may hold passwords, which `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` addresses: one server, seeds of a Cluster, or Sentinels.
    pub urls: Vec<String>,
    pub kind: RedisKind,
    /// Prefix of every key and of every pub/sub name.
    pub prefix: String,
    /// PEM of the trusted certificate authorities for `rediss://`, in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// For addresses without a password.
    pub password: Option<String>,
    /// The first one authenticates what this node writes, all of them verify.
    pub cluster_key: Vec<ClusterSecret>,
    pub unauthenticated: Unauthenticated,
}

impl RedisConfig {
    /// Checks the addresses without connecting.
    pub fn check(&self) -> Result<(), RedisError> {
        Server::new(self).map(|_| ()).map_err(|error| RedisError(error.to_string()))
    }

    /// Whether every address is on this machine: loopback or a Unix socket.
    pub fn is_local(&self) -> bool {
        let is_loopback = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let is_local = |url: &String| match info(url, None).map(|info| info.addr().clone()) {
            Ok(ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => is_loopback(&host),
            Ok(ConnectionAddr::Unix(_)) => true,
            _ => false,
        };
        self.urls.iter().all(is_local)
    }

    /// Hosts and ports, without credentials.
    pub fn addresses(&self) -> Vec<String> {
        self.urls.iter().filter_map(|url| info(url, None).ok()).map(|info| info.addr().to_string()).collect()
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("addresses", &self.addresses())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// An error in the configured addresses, or of a connection to them. It contains no password.
#[derive(Debug, thiserror::Error)]
#[error("redis: {0}")]
pub struct RedisError(pub(super) String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    Single,
    Cluster,
    /// The name of the master.
    Sentinel(String),
}

/// Opens connections to one Redis.
pub struct Server(Kind);

enum Kind {
    Single(Client),
    // Asks the Sentinels for the master with every connection.
    Sentinel(Mutex<SentinelClient>),
    Cluster(Vec<ConnectionInfo>, Option<TlsCertificates>),
}

/// A connection that pipelines commands. Cheap to clone.
#[derive(Clone)]
pub enum ServerConnection {
    One(MultiplexedConnection),
    /// A Cluster before Redis 7 has no sharded pub/sub: every server carries every name, and subscriptions use the second
    /// connection. The library's own resubscription sends many names at once, and mistakes the answers for those of other
    /// commands.
    Cluster(ClusterConnection, Option<MultiplexedConnection>),
}

impl Server {
    pub fn new(config: &RedisConfig) -> RedisResult<Self> {
        let certificates = || TlsCertificates { client_tls: None, root_cert: config.authorities.clone() };
        let infos =
            config.urls.iter().map(|url| info(url, config.password.as_deref())).collect::<RedisResult<Vec<_>>>()?;
        let Some(first) = infos.first().cloned() else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no address").into());
        };
        Ok(Self(match &config.kind {
            RedisKind::Cluster => Kind::Cluster(infos, config.authorities.is_some().then(certificates)),
            RedisKind::Single if config.authorities.is_some() => {
                Kind::Single(Client::build_with_tls(first, certificates())?)
            }
            RedisKind::Single => Kind::Single(Client::open(first)?),
            RedisKind::Sentinel(master) => {
                let addresses: Vec<_> = infos.iter().map(|info| info.addr().clone()).collect();
                let is_secure = matches!(first.addr(), ConnectionAddr::TcpTls { .. });
                let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                    .set_client_to_redis_protocol(ProtocolVersion::RESP3)
                    .set_client_to_redis_db(first.redis_settings().db());
                if is_secure {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates())
                        .set_client_to_sentinel_certificates(certificates());
                }
                if let Some(username) = first.redis_settings().username() {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = first.redis_settings().password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                Kind::Sentinel(Mutex::new(builder.build()?))
            }
        }))
    }

    /// Opens a connection. `pushes` is called for every push and must not block.
    pub async fn connect(&self, pushes: impl Fn(PushInfo) + Send + Sync + 'static) -> RedisResult<ServerConnection> {
        let pushes = Arc::new(pushes);
        let pushes = move |info| -> Result<(), std::convert::Infallible> {
            pushes(info);
            Ok(())
        };
        let config = AsyncConnectionConfig::new().set_pipeline_buffer_size(MAX_PIPELINED_COMMANDS);
        let config = config.set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(RESPONSE_TIMEOUT));
        match &self.0 {
            Kind::Cluster(infos, certificates) => {
                let mut builder = ClusterClientBuilder::new(infos.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .overall_response_timeout(Some(RESPONSE_TIMEOUT))
                    .retries(MAX_RETRIES)
                    .min_retry_wait(1)
                    .max_retry_wait(MAX_RETRY_WAIT_MS)
                    .push_sender(pushes.clone());
                // With certificates the library always uses TLS.
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates.clone());
                }
                let mut cluster = builder.build()?.get_async_connection().await?;
                if is_sharded(&mut cluster).await? {
                    return Ok(ServerConnection::Cluster(cluster, None));
                }
                let config = config.set_push_sender(pushes);
                connect_to_any(infos, certificates.as_ref(), &config)
                    .await
                    .map(|one| ServerConnection::Cluster(cluster, Some(one)))
            }
            Kind::Single(client) => {
                let config = config.set_push_sender(pushes);
                client.get_multiplexed_async_connection_with_config(&config).await.map(ServerConnection::One)
            }
            Kind::Sentinel(sentinels) => {
                let config = config.set_push_sender(pushes);
                let mut sentinels = sentinels.lock().await;
                sentinels.get_async_connection_with_config(&config).await.map(ServerConnection::One)
            }
        }
    }
}

/// Whether a Cluster has sharded pub/sub. All its servers must have the same version.
async fn is_sharded(cluster: &mut ClusterConnection) -> RedisResult<bool> {
    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
    let info = cluster.route_command(redis::cmd("INFO").arg("server").take(), any).await?;
    let info: String = redis::from_redis_value(info)?;
    // Valkey reports the version of Redis that it is compatible with.
    let major = field(&info, "redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    Ok(major.is_none_or(|major| major >= 7))
}

/// Connects to the first server that accepts.
async fn connect_to_any(
    infos: &[ConnectionInfo],
    certificates: Option<&TlsCertificates>,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let mut last = Err((redis::ErrorKind::InvalidClientConfig, "no address").into());
    for info in infos.iter().cloned() {
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
            None => Client::open(info)?,
        };
        last = client.get_multiplexed_async_connection_with_config(config).await;
        if last.is_ok() {
            break;
        }
    }
    last
}

/// A value in the output of INFO.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Reads an address. Selects RESP3: only that has pushes.
fn info(url: &str, password: Option<&str>) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    if let Some(password) = password.filter(|_| settings.password().is_none()) {
        settings = settings.set_password(password);
    }
    Ok(info.set_redis_settings(settings))
}

impl ServerConnection {
    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(..))
    }

    /// The server that subscriptions use; `None` for a Cluster with sharded pub/sub.
    pub fn one(&self) -> Option<&MultiplexedConnection> {
        match self {
            Self::One(one) => Some(one),
            Self::Cluster(_, one) => one.as_ref(),
        }
    }

    /// Returns once Redis has confirmed the subscription.
    pub async fn subscribe(&mut self, name: &str) -> RedisResult<()> {
        match self {
            Self::One(one) | Self::Cluster(_, Some(one)) => one.subscribe(name).await,
            Self::Cluster(cluster, None) => cluster.ssubscribe(name).await,
        }
    }

    pub async fn unsubscribe(&mut self, name: &str) -> RedisResult<()> {
        match self {
            Self::One(one) | Self::Cluster(_, Some(one)) => one.unsubscribe(name).await,
            Self::Cluster(cluster, None) => cluster.sunsubscribe(name).await,
        }
    }
}

impl ConnectionLike for ServerConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(command),
            Self::Cluster(cluster, _) => cluster.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster, _) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster, _) => cluster.get_db(),
        }
    }
}
