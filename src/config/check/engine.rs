//! The table `engine`. Creates no file.

use std::path::PathBuf;

use super::numbers::Numbers;
use super::secret_file;
use crate::config::EngineConfig;
use crate::config::files::{Files, READABLE_SECRET, is_world_readable, read_text};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Engine, OneOrMany};
use crate::config::suggest::one_of;
use crate::engine::disk::Fsync;
use crate::engine::{ClusterSecret, DiskConfig, RedisConfig, RedisKind, Unauthenticated};

/// Space for the pages of many channels, and eight times the size of a modest backlog.
const MIN_DISK_BYTES: u64 = 64 * 1024 * 1024;

pub fn check(engine: Engine, report: &mut Report, files: &mut Files) -> EngineConfig {
    let table = Path::of("engine");
    let max_bytes = Numbers::new(table.clone(), report).bytes("max_bytes", engine.max_bytes, MIN_DISK_BYTES);
    let fsync = match engine.fsync.as_str() {
        "always" => Fsync::Always,
        "never" => Fsync::Never,
        other => {
            report.wrong(&table.key("fsync"), other, one_of(other, &["always", "never"]));
            Fsync::Always
        }
    };
    let kind = engine.kind.as_str();
    check_unrelated(&engine, &table, report);
    match (kind, &engine.path) {
        ("memory", _) => EngineConfig::Memory {
            ledger: engine.ledger.as_ref().map(|ledger| {
                let path = check_file(ledger, &table.key("ledger"), report);
                DiskConfig { path, fsync: Fsync::Always, max_bytes }
            }),
        },
        ("disk", None) => {
            report.missing(&table, "path", "must be the file that keeps the backlog");
            EngineConfig::Memory { ledger: None }
        }
        ("disk", Some(path)) => {
            let path = check_file(path, &table.key("path"), report);
            EngineConfig::Disk(DiskConfig { path, fsync, max_bytes })
        }
        ("redis", _) => EngineConfig::Redis(check_redis(engine, &table, report, files)),
        _ => {
            report.wrong(&table.key("kind"), kind, one_of(kind, &["memory", "disk", "redis"]));
            EngineConfig::Memory { ledger: None }
        }
    }
}

/// The file of a store, which need not exist.
fn check_file(text: &str, key: &Path, report: &mut Report) -> PathBuf {
    let file = PathBuf::from(text);
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if text.is_empty() || file.is_dir() {
        report.wrong(key, text, "must be a file; it is created if it does not exist");
    } else if folder.is_some_and(|folder| !folder.is_dir()) {
        report.wrong(key, text, "must be in a directory that exists");
    }
    file
}

/// Reports settings of other kinds of engines. Values may hold passwords and are not shown.
fn check_unrelated(engine: &Engine, table: &Path, report: &mut Report) {
    let of_redis = [
        ("url", engine.url.is_some()),
        ("cluster", engine.cluster),
        ("sentinel", engine.sentinel.is_some()),
        ("ca", engine.ca.is_some()),
        ("password_file", engine.password_file.is_some()),
        ("cluster_key", engine.cluster_key.is_some()),
    ];
    let unrelated = [("path", "disk", engine.path.is_some()), ("ledger", "memory", engine.ledger.is_some())]
        .into_iter()
        .chain(of_redis.map(|(key, is_set)| (key, "redis", is_set)))
        .filter(|(_, kind, is_set)| *is_set && *kind != engine.kind);
    if ["memory", "disk", "redis"].contains(&engine.kind.as_str()) {
        for (key, kind, _) in unrelated {
            let right = format_args!("has no meaning with engine.kind = {:?}, only with {kind:?}", engine.kind);
            report.misplaced(&table.key(key), right);
        }
    }
}

fn check_redis(engine: Engine, table: &Path, report: &mut Report, files: &mut Files) -> RedisConfig {
    let Engine {
        kind: _,
        path: _,
        ledger: _,
        fsync: _,
        max_bytes: _,
        url,
        cluster,
        sentinel,
        prefix,
        ca,
        password_file,
        cluster_key,
        unauthenticated,
    } = engine;
    let urls = url.map(|url| url.into_vec()).unwrap_or_default();
    if urls.is_empty() {
        report.missing(table, "url", "must be the address of Redis, such as \"rediss://redis.internal:6379\"");
    }
    let kind = match (cluster, sentinel) {
        (true, Some(_)) => {
            report.misplaced(&table.key("sentinel"), "a Cluster has no Sentinels; leave out one of the two");
            RedisKind::Cluster
        }
        (true, None) => RedisKind::Cluster,
        (false, Some(master)) => {
            if master.is_empty() {
                report.misplaced(
                    &table.key("sentinel"),
                    "must be the name of the master in the configuration of the Sentinels",
                );
            }
            RedisKind::Sentinel(master)
        }
        (false, None) => {
            if urls.len() > 1 {
                let right = "must be one address, unless cluster = true or sentinel = \"name of the master\" is set";
                report.misplaced(&table.key("url"), right);
            }
            RedisKind::Single
        }
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
        report.wrong(&table.key("prefix"), prefix.as_str(), "must be 1 to 64 letters, digits, `-`, `_`, `.` and `:`");
    }
    let mut read = |key: &str, name: Option<String>| {
        let file = files.locate(&name?);
        if key == "password_file" && is_world_readable(&file) {
            report.warn(&table.key(key), READABLE_SECRET);
        }
        let text = read_text(&file);
        text.map_err(|reason| report.misplaced(&table.key(key), reason)).ok()
    };
    let authorities = read("ca", ca).map(String::into_bytes);
    let password = read("password_file", password_file).map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let cluster_key = check_cluster_key(cluster_key, table, report, files);
    let unauthenticated = check_unauthenticated(&unauthenticated, !cluster_key.is_empty(), table, report);
    let config = RedisConfig { urls, kind, prefix, authorities, password, cluster_key, unauthenticated };
    if !config.urls.is_empty()
        && let Err(error) = config.check()
    {
        report.misplaced(&table.key("url"), error);
    } else if config.cluster_key.is_empty() && !config.is_local() {
        let right = "must be a key that all nodes share, because Redis is not on this machine: everything that writes to it \
                     could act as a node; generate one with `lastmile keygen --seal -o FILE`";
        report.missing(table, "cluster_key", right);
    }
    config
}

fn check_cluster_key(
    key: Option<OneOrMany>,
    table: &Path,
    report: &mut Report,
    files: &mut Files,
) -> Vec<ClusterSecret> {
    let files_of_keys = key.map(OneOrMany::into_vec).unwrap_or_default();
    let keys = files_of_keys.into_iter().filter_map(|file| {
        let key = secret_file::seal_key(file, &table.key("cluster_key"), report, files)?;
        Some(ClusterSecret::new(key.secret()))
    });
    keys.collect()
}

fn check_unauthenticated(value: &str, has_key: bool, table: &Path, report: &mut Report) -> Unauthenticated {
    let path = table.key("unauthenticated");
    let unauthenticated = match value {
        "refuse" => return Unauthenticated::Refuse,
        "accept" => Unauthenticated::Accept,
        "write" => Unauthenticated::Write,
        other => {
            report.wrong(&path, other, one_of(other, &["refuse", "accept", "write"]));
            return Unauthenticated::Refuse;
        }
    };
    if has_key {
        report.warn(&path, "every writer to Redis can act as a node until this is \"refuse\"");
    } else {
        report.misplaced(&path, "has no meaning without engine.cluster_key");
    }
    unauthenticated
}
