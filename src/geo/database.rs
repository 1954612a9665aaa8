//! One database file: read with a bound, verified, looked up.

use std::collections::HashSet;
use std::fmt;
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

/// Largest file that is read, in bytes. The largest city databases have a fourth of it.
const MAX_BYTES: u64 = 1 << 30;

/// A verified database in memory.
pub struct Database {
    reader: Reader<Vec<u8>>,
    version: Version,
}

/// What tells a file from its next version, cheaply.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Version {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Database {
    pub fn open(file: &Path) -> Result<Self, GeoError> {
        let broken = |reason| GeoError::Broken { file: file.to_owned(), reason };
        let (bytes, version) = read(file).map_err(|reason| GeoError::Read { file: file.to_owned(), reason })?;
        let database = Self::unverified(bytes, version).map_err(broken)?;
        database.verify().map_err(broken)?;
        Ok(database)
    }

    pub fn unverified(bytes: Vec<u8>, version: Version) -> Result<Self, MaxMindDbError> {
        Ok(Self { reader: Reader::from_source(bytes)?, version })
    }

    /// Walks the whole tree, and every record once, so that a damaged file is found at the start and not by a client.
    ///
    /// The library's own `verify` also wants a description in the metadata, which free databases leave empty.
    pub fn verify(&self) -> Result<(), MaxMindDbError> {
        // A tree with this many nodes has fewer ends; more of them mean a circle.
        let most = self.reader.metadata().node_count as usize * 3;
        let mut seen = HashSet::new();
        let everything = WithinOptions::default().include_networks_without_data();
        for (count, network) in self.reader.networks(everything)?.enumerate() {
            let network = network?;
            if count > most {
                return Err(MaxMindDbError::invalid_database("the search tree has a circle"));
            }
            if network.offset().is_some_and(|offset| seen.insert(offset)) {
                network.decode::<IgnoredAny>()?;
            }
        }
        if seen.is_empty() {
            return Err(MaxMindDbError::invalid_database("it has no records"));
        }
        Ok(())
    }

    /// Whether the file is still the one that was read; a file that is gone is not.
    pub fn is_current(&self, file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|metadata| Version::of(&metadata) == self.version)
    }

    /// Fields that are missing, of another type or cannot be decoded are left out, each alone.
    pub fn lookup(&self, address: IpAddr, languages: &Languages) -> Location {
        // An error here is a broken tree, or an IPv6 address in a file for IPv4 alone: nothing is known.
        let Ok(record) = self.reader.lookup(address) else { return Location::default() };
        let name = |keys: &[&str]| keys.iter().find_map(|key| field(&record, key)?.name(languages));
        Location {
            city: name(&["city"]),
            // One layout has maps with names in many languages, the other has columns of text.
            region: name(&["subdivisions", "state1"]),
            country: name(&["country", "country_code"]),
        }
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() }
    }
}

fn read(file: &Path) -> io::Result<(Vec<u8>, Version)> {
    let file = File::open(file)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    let version = Version::of(&metadata);
    let mut bytes = Vec::with_capacity(usize::try_from(version.length.min(MAX_BYTES)).unwrap_or(0));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("the file is larger than 1 GiB"));
    }
    Ok((bytes, version))
}

fn field<'a>(record: &LookupResult<'a, Vec<u8>>, key: &str) -> Option<Field<'a>> {
    record.decode_path(&[PathElement::Key(key)]).ok().flatten()
}

/// Why a database cannot be used. `Display` names the file.
#[derive(Debug)]
pub enum GeoError {
    Read { file: PathBuf, reason: io::Error },
    Broken { file: PathBuf, reason: MaxMindDbError },
}

impl fmt::Display for GeoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, reason } => write!(f, "GeoIP database {} cannot be read: {reason}", file.display()),
            Self::Broken { file, reason } => {
                write!(f, "GeoIP database {} is not a whole MaxMind DB file: {reason}", file.display())
            }
        }
    }
}

impl std::error::Error for GeoError {}
