//! GeoIP lookup: city, subdivision and country of a client address, in the client's language.
//!
//! Room peers receive the location; nothing is authorized by it. The operator's database files are read into memory.
//! Memory mapping would need unsafe code, and overwriting a mapped file ends the process.

mod database;
mod languages;
mod location;
mod record;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;
use parking_lot::Mutex;

pub use database::GeoError;
pub use languages::{Language, Languages};
pub use location::Location;

use database::Database;

/// Configuration of GeoIP lookups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeoConfig {
    /// Databases in MaxMind DB format. The first one with a record for an address is used.
    pub files: Vec<PathBuf>,
    /// For clients that accept no available language.
    pub default_language: Language,
}

/// The databases in force. Lookups never block, not even during a reload.
pub struct GeoDb {
    config: GeoConfig,
    databases: ArcSwap<Vec<Arc<Database>>>,
    /// Serializes reloads.
    reloading: Mutex<()>,
}

impl GeoDb {
    /// Reads and verifies every file, which takes seconds for large ones.
    pub fn open(config: GeoConfig) -> Result<Self, GeoError> {
        let databases = config.files.iter().map(|file| Database::open(file).map(Arc::new));
        let databases = databases.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { config, databases: ArcSwap::from_pointee(databases), reloading: Mutex::new(()) })
    }

    /// A warning for each database that knows no city, for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let databases = self.databases.load();
        let countries = self.config.files.iter().zip(databases.iter()).filter(|(_, database)| !database.has_cities());
        countries.map(|(file, _)| format!("GeoIP database {} has no cities", file.display())).collect()
    }

    /// Reads changed files again. Returns whether any changed. Keeps the previous databases if a file is missing or
    /// broken. Blocks on disk reads: call it on a blocking thread.
    pub fn reload(&self) -> Result<bool, GeoError> {
        let _serialized = self.reloading.lock();
        let old = self.databases.load_full();
        let again = |(file, old): (&PathBuf, &Arc<Database>)| match old.is_current(file) {
            true => Ok(old.clone()),
            false => Database::open(file).map(Arc::new),
        };
        let new = self.config.files.iter().zip(old.iter()).map(again).collect::<Result<Vec<_>, _>>()?;
        let is_changed = new.iter().zip(old.iter()).any(|(new, old)| !Arc::ptr_eq(new, old));
        if is_changed {
            self.databases.store(Arc::new(new));
        }
        Ok(is_changed)
    }

    /// The location of a request's client in its language. `peer_is_trusted`: the socket's peer is a trusted proxy,
    /// whose location header is used if the databases have no city.
    pub fn locate(&self, client: IpAddr, headers: &HeaderMap, peer_is_trusted: bool) -> Location {
        // Several lines are one list (RFC 9110 section 5.3).
        let lines = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|line| line.to_str().ok());
        let accepted = lines.collect::<Vec<_>>().join(",");
        let languages = Languages::parse(Some(&accepted), self.config.default_language);
        self.lookup(client, &languages).or_forwarded(headers, peer_is_trusted)
    }

    /// The location of an address; IPv4 in IPv6 is IPv4. Each field is in the first language for which the database has
    /// a name; unknown fields are `None`.
    pub fn lookup(&self, client: IpAddr, languages: &Languages) -> Location {
        let databases = self.databases.load();
        let mut locations = databases.iter().map(|database| database.lookup(client.to_canonical(), languages));
        locations.find(|location| *location != Location::default()).unwrap_or_default()
    }
}
