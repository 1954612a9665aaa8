//! Where a client is, by its address: city, first subdivision and country from database files of the operator, in the
//! language that the client asks for. Only ever told to the other side of a room, never used to allow anything.
//!
//! The files are read into memory. Mapping them would need unsafe code, and a file that is overwritten under a mapping
//! ends the process.

mod database;
mod languages;
mod place;
mod record;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;
use parking_lot::Mutex;

pub use database::GeoError;
pub use languages::{Language, Languages};
pub use place::Location;

use crate::auth::ClientAddr;
use database::Database;

/// What a gateway is told about places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeoConfig {
    /// Databases in the MaxMind DB format; the first one that knows an address answers.
    pub files: Vec<PathBuf>,
    /// For clients that ask for no language that there is.
    pub default_language: Language,
}

/// The databases in force. Lookups never wait, not for a reload either.
pub struct GeoDb {
    config: GeoConfig,
    databases: ArcSwap<Vec<Arc<Database>>>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl GeoDb {
    /// Reads and verifies every file; takes seconds for large ones.
    pub fn open(config: GeoConfig) -> Result<Self, GeoError> {
        let databases = config.files.iter().map(|file| Database::open(file).map(Arc::new));
        let databases = databases.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { config, databases: ArcSwap::from_pointee(databases), reloading: Mutex::new(()) })
    }

    /// Reads the files again that changed, and says whether there were any. What was in force stays if one of them is
    /// missing or broken. Reads from the disk: not for a thread that serves connections.
    pub fn reload(&self) -> Result<bool, GeoError> {
        let _one = self.reloading.lock();
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

    /// Where the client of a request is, in its language. `peer_is_trusted` says whether the socket's peer is a trusted
    /// proxy, whose word counts where no city is known.
    pub fn place(&self, client: ClientAddr, headers: &HeaderMap, peer_is_trusted: bool) -> Location {
        // Several lines are one list (RFC 9110 section 5.3).
        let lines = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|line| line.to_str().ok());
        let wanted = lines.collect::<Vec<_>>().join(",");
        let languages = Languages::parse(Some(&wanted), self.config.default_language);
        self.lookup(client, &languages).or_told(headers, peer_is_trusted)
    }

    /// Where the client is, in the first of its languages that the database has for each field; what is not known is
    /// not there.
    pub fn lookup(&self, client: ClientAddr, languages: &Languages) -> Location {
        let databases = self.databases.load();
        let mut places = databases.iter().map(|database| database.lookup(client.ip(), languages));
        places.find(|place| *place != Location::default()).unwrap_or_default()
    }
}
