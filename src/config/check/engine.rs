//! What keeps the backlog, and where. No file is made here.

use super::super::path::Path;
use super::super::report::Report;
use super::super::settings::Engine;
use super::super::suggest::one_of;
use super::limits::Numbers;
use crate::config::EngineConfig;
use crate::engine::DiskConfig;
use crate::engine::disk::Fsync;

/// Room for the pages of many channels, and eight times what a modest backlog takes.
const MIN_DISK_BYTES: u64 = 64 * 1024 * 1024;

pub fn check(engine: Engine, report: &mut Report) -> EngineConfig {
    let Engine { kind, path, fsync, max_bytes } = engine;
    let table = Path::of("engine");
    let max_bytes = Numbers::new(table.clone(), report).bytes("max_bytes", max_bytes, MIN_DISK_BYTES);
    let fsync = match fsync.as_str() {
        "always" => Fsync::Always,
        "never" => Fsync::Never,
        other => {
            report.wrong(&table.key("fsync"), other, one_of(other, &["always", "never"]));
            Fsync::Always
        }
    };
    match (kind.as_str(), path) {
        ("memory", None) => {}
        ("memory", Some(path)) => {
            report.wrong(&table.key("path"), path, "has no meaning for engine.kind = \"memory\"; say \"disk\" there");
        }
        ("disk", None) => report.missing(&table, "path", "must be the file that keeps the backlog"),
        ("disk", Some(path)) => {
            let file = std::path::PathBuf::from(&path);
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if path.is_empty() || file.is_dir() {
                report.wrong(&table.key("path"), path, "must be a file; it is made if it is not there");
            } else if folder.is_some_and(|folder| !folder.is_dir()) {
                report.wrong(&table.key("path"), path, "must stand in a directory that exists");
            }
            return EngineConfig::Disk(DiskConfig { path: file, fsync, max_bytes });
        }
        ("redis", _) => report.wrong(&table.key("kind"), kind, "not in this version; must be \"memory\" or \"disk\""),
        _ => report.wrong(&table.key("kind"), kind.as_str(), one_of(&kind, &["memory", "disk"])),
    }
    EngineConfig::Memory
}
