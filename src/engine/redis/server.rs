//! How a Redis is reached: one server, the master that Sentinels name, or a Cluster.

use std::fmt;
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

/// A server that does not take a connection within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that does not answer within this is away, and the connection is not used again.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a Cluster's command may need: one more way for a slot that moved, one for a connection that broke. Those that a
/// dead master is asked for are to fail at once, because all others wait each time the library looks where the slots are.
const MAX_RETRIES: u32 = 2;

/// Milliseconds before such a way.
const MAX_RETRY_WAIT_MS: u64 = 20;

/// Commands that may wait to be sent. Those beyond it would not be sent in the order in which they came; far more than
/// anybody here begins at once.
const MAX_PIPELINED_COMMANDS: usize = 64 * 1024;

/// Where Redis is, as the configuration gives it. The addresses may hold passwords, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` addresses: one server, seeds of a Cluster, or Sentinels.
    pub urls: Vec<String>,
    pub kind: RedisKind,
    /// Before every key and every name.
    pub prefix: String,
    /// PEM of the authorities to trust for `rediss://`, in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// For addresses without one.
    pub password: Option<String>,
}

impl RedisConfig {
    /// Whether the addresses can be read; nothing is connected to.
    pub fn check(&self) -> Result<(), RedisError> {
        Server::new(self).map(|_| ()).map_err(|error| RedisError(error.to_string()))
    }

    /// Hosts and ports, without whoever logs in there.
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

/// Why Redis cannot be reached as it is configured. It holds no password.
#[derive(Debug)]
pub struct RedisError(pub(super) String);

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis: {}", self.0)
    }
}

impl std::error::Error for RedisError {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    Single,
    Cluster,
    /// With the name of the master.
    Sentinel(String),
}

/// Opens connections to one Redis.
pub struct Server(Kind);

enum Kind {
    Single(Client),
    // It learns where the master is with every connection.
    Sentinel(Mutex<SentinelClient>),
    Cluster(Vec<ConnectionInfo>, Option<TlsCertificates>),
}

/// A connection for many commands at once. Cheap to clone.
#[derive(Clone)]
pub enum ServerConnection {
    One(MultiplexedConnection),
    /// A Cluster before Redis 7 has no sharded pub/sub: all its servers carry all names, and this one is asked for them. The
    /// library is not: it subscribes anew with many names at once, and takes the answers for those of other commands.
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

    /// Opens a connection. What subscriptions bring goes to `pushes`, which must not wait.
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
                // With certificates it always speaks TLS.
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates.clone());
                }
                let mut cluster = builder.build()?.get_async_connection().await?;
                if is_sharded(&mut cluster).await? {
                    return Ok(ServerConnection::Cluster(cluster, None));
                }
                let config = config.set_push_sender(pushes);
                any(infos, certificates.as_ref(), &config)
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
    // Valkey gives the version of Redis that it is like.
    let major = field(&info, "redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    Ok(major.is_none_or(|major| major >= 7))
}

/// The first that takes a connection.
async fn any(
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

/// A value of what INFO says.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Subscriptions arrive as pushes, which the older protocol does not have.
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

    /// The one server that is asked for subscriptions. Of a Cluster whose pub/sub is sharded there is none.
    pub fn one(&self) -> Option<&MultiplexedConnection> {
        match self {
            Self::One(one) => Some(one),
            Self::Cluster(_, one) => one.as_ref(),
        }
    }

    /// Returns once Redis said that it is so.
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
