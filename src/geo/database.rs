//! A GeoIP database file: bounded read, verification, lookup.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};
use serde::de::IgnoredAny;

use super::record::Field;
use super::{Languages, Location};

/// Largest database file, in bytes: four times the largest city databases.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A verified database in memory.
pub struct Database {
    reader: Reader<Vec<u8>>,
    version: FileVersion,
    has_cities: bool,
}

/// Identifies a version of a file by its metadata.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FileVersion {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Database {
    pub fn open(file: &Path) -> Result<Self, GeoError> {
        let broken = |reason| GeoError::Broken { file: file.to_owned(), reason };
        let (bytes, version) = read(file).map_err(|reason| GeoError::Read { file: file.to_owned(), reason })?;
        let mut database = Self::unverified(bytes, version).map_err(broken)?;
        database.has_cities = database.verify().map_err(broken)?;
        if !database.has_cities {
            tracing::warn!(file = %file.display(), "GeoIP database has no cities");
        }
        Ok(database)
    }

    pub fn unverified(bytes: Vec<u8>, version: FileVersion) -> Result<Self, MaxMindDbError> {
        Ok(Self { reader: Reader::from_source(bytes)?, version, has_cities: false })
    }

    /// Reads the whole tree, and every record once, so that a damaged file is found at start. Returns whether a record
    /// has a city.
    ///
    /// The library's own `verify` also requires a description in the metadata, which free databases leave empty.
    pub fn verify(&self) -> Result<bool, MaxMindDbError> {
        // A tree with this many nodes has fewer leaves; more of them mean a cycle.
        let max_leaves = self.reader.metadata().node_count as usize * 3;
        let (mut seen, mut has_cities) = (HashSet::new(), false);
        let everything = WithinOptions::default().include_networks_without_data();
        for (count, network) in self.reader.networks(everything)?.enumerate() {
            let network = network?;
            if count > max_leaves {
                return Err(MaxMindDbError::invalid_database("the search tree has a cycle"));
            }
            if network.offset().is_some_and(|offset| seen.insert(offset)) {
                network.decode::<IgnoredAny>()?;
                has_cities = has_cities || field(&network, "city").is_some();
            }
        }
        if seen.is_empty() {
            return Err(MaxMindDbError::invalid_database("no records"));
        }
        Ok(has_cities)
    }

    /// Whether a record has a city. Other databases, for example of countries, are useful to few.
    pub fn has_cities(&self) -> bool {
        self.has_cities
    }

    /// Whether the file is unchanged. A missing file counts as changed.
    pub fn is_current(&self, file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|metadata| FileVersion::of(&metadata) == self.version)
    }

    /// A field that is missing, has another type or cannot be decoded is left out; other fields are not affected.
    pub fn lookup(&self, address: IpAddr, languages: &Languages) -> Location {
        // An error is a broken tree, or an IPv6 address in a database for IPv4.
        let Ok(record) = self.reader.lookup(address) else { return Location::default() };
        let name = |keys: &[&str]| keys.iter().find_map(|key| field(&record, key)?.name(languages));
        Location {
            city: name(&["city"]),
            // The nested layout has names in many languages, the flat one has text.
            region: name(&["subdivisions", "state1"]),
            country: name(&["country", "country_code"]),
        }
    }
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() }
    }
}

fn read(file: &Path) -> io::Result<(Vec<u8>, FileVersion)> {
    let file = File::open(file)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let version = FileVersion::of(&metadata);
    let mut bytes = Vec::with_capacity(usize::try_from(version.length.min(MAX_FILE_BYTES)).unwrap_or(0));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("the file is larger than 1 GiB"));
    }
    Ok((bytes, version))
}

fn field<'a>(record: &LookupResult<'a, Vec<u8>>, key: &str) -> Option<Field<'a>> {
    record.decode_path(&[PathElement::Key(key)]).ok().flatten()
}

/// Why a database cannot be used. `Display` names the file.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    #[error("cannot read GeoIP database {file}: {reason}")]
    Read { file: PathBuf, reason: io::Error },
    #[error("GeoIP database {file} is not a valid MaxMind DB file: {reason}")]
    Broken { file: PathBuf, reason: MaxMindDbError },
}
