//! The store: channels and their backlogs in one `redb` file, changed in transactions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::clock::{Stamp, StoreClock};
use super::error::DiskError;
use super::facts::Fact;
use super::file::{Fsync, StoreFile};
use crate::broker::ChannelLimits;
use crate::engine::backlog::Entry;
use crate::engine::lives::{Lives, random_seed};
use crate::engine::log::{Log, LogState, Usage};
use crate::protocol::publication::StoredPublication;
use crate::protocol::{ChannelName, CloseReason};

/// Channel name to [`Record`] as JSON.
const CHANNELS: TableDefinition<&str, &[u8]> = TableDefinition::new("channels");
/// Channel id and offset to the store's time in milliseconds, followed by [`StoredPublication`].
const BACKLOG: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("backlog");
/// Name of a fact to its expiry in seconds since 1970, followed by its value.
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const METADATA: TableDefinition<&str, u64> = TableDefinition::new("about");
/// [`Lives`]: the removed channels of each bucket.
const LIVES: TableDefinition<u64, u32> = TableDefinition::new("lives");

/// Version of the tables above.
const FORMAT: u64 = 1;
/// Memory for pages of the file. Small, because the store is read only at the start.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Size of the time before a publication.
const CLOCK_BYTES: usize = 8;

/// Path and limits of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    pub path: PathBuf,
    pub fsync: Fsync,
    /// Most bytes of the file.
    pub max_bytes: u64,
}

pub struct Store {
    config: DiskConfig,
    file: StoreFile,
    database: Database,
    pub clock: StoreClock,
    /// The seed of [`Lives`].
    seed: u64,
}

/// The changes of one transaction, applied in the order of the fields.
#[derive(Default)]
pub struct Changes {
    /// Rows to delete, by channel id.
    pub garbage: Vec<(u64, Range<u64>)>,
    pub publications: Vec<(u64, u64, Entry)>,
    pub removed: Vec<(ChannelName, u64)>,
    /// Counts of removed channels, by bucket.
    pub lives: BTreeMap<u64, u32>,
    pub channels: BTreeMap<ChannelName, Record>,
    /// Replaces all facts of the ledger.
    pub all_facts: Option<Vec<(String, Fact)>>,
    /// Facts to write, or to delete.
    pub facts: Vec<(String, Option<Fact>)>,
}

/// The state of a channel besides its backlog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: u64,
    pub epoch: String,
    pub offset: u64,
    pub data_bytes: u64,
    /// Milliseconds, of the store's clock and since 1970.
    pub created: u64,
    pub created_wall: i64,
    /// The code of the close reason that ended the channel.
    pub ended: Option<u16>,
    /// `max_connections`, `max_messages`, `max_data_bytes`, `max_message_bytes`, seconds of life.
    pub declared: Option<[u64; 5]>,
}

impl Store {
    /// Opens the store, and creates it if the file does not exist.
    pub fn open(config: &DiskConfig) -> Result<Self, DiskError> {
        let DiskConfig { path, fsync, max_bytes } = config;
        if !path.try_exists().map_err(|error| DiskError::io(path, error))? {
            return Self::make(config, StoreClock::resume(Stamp::default(), Instant::now(), 0))?.into_place();
        }
        let file = StoreFile::open(path, false, *fsync, *max_bytes).map_err(|error| DiskError::file(path, error))?;
        Self::open_file(config, file, None)
    }

    /// Opens the same file with a new handle, which discards what the failed one did not commit.
    pub fn reopen(self) -> Result<Self, (StoreFile, DiskError)> {
        let Self { config, file, database, clock, seed: _ } = self;
        // A failed handle writes nothing when it is dropped.
        drop(database);
        Self::open_file(&config, file.clone(), Some(clock)).map_err(|error| (file, error))
    }

    pub fn open_file(config: &DiskConfig, file: StoreFile, clock: Option<StoreClock>) -> Result<Self, DiskError> {
        let path = &config.path;
        let mut builder = Database::builder();
        // Reads the whole file, as the start does anyway, so that damage is found here and not later.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(file.clone()).map_err(|error| DiskError::database(path, error))?;
        let transaction = database.begin_write().map_err(|error| DiskError::database(path, error))?;
        let stamp = (|| {
            let mut metadata = transaction.open_table(METADATA)?;
            transaction.open_table(CHANNELS)?;
            transaction.open_table(BACKLOG)?;
            transaction.open_table(FACTS)?;
            transaction.open_table(LIVES)?;
            let mut get = |key: &str, default| -> Result<u64, redb::Error> {
                let known = metadata.get(key)?.map(|value| value.value());
                match known {
                    Some(known) => Ok(known),
                    None => {
                        metadata.insert(key, default)?;
                        Ok(default)
                    }
                }
            };
            let format = get("format", FORMAT)?;
            let stamp = Stamp { store: get("store_ms", 0)?, wall: get("wall_ms", wall_ms())? };
            Ok((format, stamp, get("seed", random_seed())?))
        })();
        let (format, stamp, seed) = stamp.map_err(|error: redb::Error| DiskError::database(path, error))?;
        if format != FORMAT {
            return Err(DiskError::Format { path: path.clone(), format });
        }
        transaction.commit().map_err(|error| DiskError::database(path, error))?;
        let clock = clock.unwrap_or_else(|| StoreClock::resume(stamp, Instant::now(), wall_ms()));
        Ok(Self { config: config.clone(), file, database, clock, seed })
    }

    /// Creates an empty store beside the configured path.
    pub fn make(config: &DiskConfig, clock: StoreClock) -> Result<Self, DiskError> {
        let path = new_path(&config.path);
        let file = StoreFile::open(&path, true, config.fsync, config.max_bytes)
            .map_err(|error| DiskError::file(&path, error))?;
        Self::open_file(config, file, Some(clock))
    }

    /// Moves a created store to the configured path, atomically.
    pub fn into_place(self) -> Result<Self, DiskError> {
        let path = &self.config.path;
        self.file.rename(&new_path(path), path).map_err(|error| DiskError::io(path, error))?;
        Ok(self)
    }

    pub fn file(&self) -> &StoreFile {
        &self.file
    }

    /// Applies all changes or none. After an error the handle is unusable.
    pub fn commit(&self, changes: &Changes) -> Result<(), redb::Error> {
        let Changes { garbage, publications, removed, lives, channels, all_facts, facts } = changes;
        let transaction = self.database.begin_write()?;
        {
            let mut rows = transaction.open_table(BACKLOG)?;
            for (id, offsets) in garbage {
                rows.retain_in((*id, offsets.start)..(*id, offsets.end), |_, _| false)?;
            }
            for (id, offset, Entry { at, form: kept }) in publications {
                let mut row = rows.insert_reserve((*id, *offset), CLOCK_BYTES + kept.stored_len())?;
                let (time, publication) = row.as_mut().split_at_mut(CLOCK_BYTES);
                time.copy_from_slice(&self.clock.at(*at).to_le_bytes());
                kept.write(publication);
            }
            let mut records = transaction.open_table(CHANNELS)?;
            for (channel, id) in removed {
                rows.retain_in((*id, 0)..=(*id, u64::MAX), |_, _| false)?;
                records.remove(channel.as_str())?;
            }
            let mut counts = transaction.open_table(LIVES)?;
            for (bucket, count) in lives {
                counts.insert(bucket, count)?;
            }
            for (channel, record) in channels {
                let json = serde_json::to_vec(record)
                    .map_err(|error| redb::Error::Corrupted(format!("cannot encode channel: {error}")))?;
                records.insert(channel.as_str(), &json[..])?;
            }
            let mut ledger = transaction.open_table(FACTS)?;
            if let Some(all) = all_facts {
                ledger.retain(|_, _| false)?;
                for (name, fact) in all {
                    ledger.insert(name.as_str(), &fact.to_row()[..])?;
                }
            }
            for (name, fact) in facts {
                match fact {
                    Some(fact) => drop(ledger.insert(name.as_str(), &fact.to_row()[..])?),
                    None => drop(ledger.remove(name.as_str())?),
                }
            }
            let mut metadata = transaction.open_table(METADATA)?;
            metadata.insert("store_ms", self.clock.at(Instant::now()))?;
            metadata.insert("wall_ms", wall_ms())?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// All facts of the ledger.
    pub fn read_facts(&self) -> Result<Vec<(String, Fact)>, DiskError> {
        let error = |error: redb::Error| DiskError::database(&self.config.path, error);
        let transaction = self.database.begin_read().map_err(|e| error(e.into()))?;
        let rows = transaction.open_table(FACTS).map_err(|e| error(e.into()))?;
        let mut facts = Vec::new();
        for row in rows.iter().map_err(|e| error(e.into()))? {
            let (name, fact) = row.map_err(|e| error(e.into()))?;
            let cause = || DiskError::Damaged { path: self.config.path.clone(), cause: "invalid fact".to_owned() };
            facts.push((name.value().to_owned(), Fact::from_row(fact.value()).ok_or_else(cause)?));
        }
        Ok(facts)
    }

    /// The epochs of channels that begin from now on.
    pub fn lives(&self) -> Result<Lives, DiskError> {
        let counts = || -> Result<Vec<(u64, u32)>, redb::Error> {
            let counts = self.database.begin_read()?.open_table(LIVES)?;
            let rows = counts.iter()?;
            rows.map(|row| row.map(|(bucket, count)| (bucket.value(), count.value())).map_err(Into::into)).collect()
        };
        let counts = counts().map_err(|error| DiskError::database(&self.config.path, error))?;
        Ok(Lives::restore(self.seed, counts))
    }

    /// Calls `visit` for every channel with its backlog, in the order of offsets.
    pub fn read(&self, mut visit: impl FnMut(ChannelName, Record, Vec<(u64, Entry)>)) -> Result<(), DiskError> {
        let path = &self.config.path;
        let error = |error: redb::Error| DiskError::database(path, error);
        let damaged = |cause: &str| DiskError::Damaged { path: path.clone(), cause: cause.to_owned() };
        let transaction = self.database.begin_read().map_err(|e| error(e.into()))?;
        let records = transaction.open_table(CHANNELS).map_err(|e| error(e.into()))?;
        let rows = transaction.open_table(BACKLOG).map_err(|e| error(e.into()))?;
        for stored in records.iter().map_err(|e| error(e.into()))? {
            let (name, record) = stored.map_err(|e| error(e.into()))?;
            let name = ChannelName::from_stored(name.value()).map_err(|_| damaged("invalid channel name"))?;
            let record: Record =
                serde_json::from_slice(record.value()).map_err(|_| damaged("invalid channel record"))?;
            let mut backlog = Vec::new();
            for row in rows.range((record.id, 0)..=(record.id, u64::MAX)).map_err(|e| error(e.into()))? {
                let (key, row) = row.map_err(|e| error(e.into()))?;
                let (time, kept) =
                    row.value().split_first_chunk::<CLOCK_BYTES>().ok_or_else(|| damaged("invalid publication"))?;
                let kept = StoredPublication::read(kept).ok_or_else(|| damaged("invalid publication"))?;
                backlog.push((key.value().1, Entry { at: self.clock.moment(u64::from_le_bytes(*time)), form: kept }));
            }
            visit(name, record, backlog);
        }
        Ok(())
    }
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        let Self { garbage, publications, removed, lives: _, channels, all_facts, facts } = self;
        let has_facts = all_facts.is_some() || !facts.is_empty();
        garbage.is_empty() && publications.is_empty() && removed.is_empty() && channels.is_empty() && !has_facts
    }

    /// Replaces everything that is stored of a channel.
    pub fn rewrite(&mut self, channel: &ChannelName, log: &Log, clock: &StoreClock) {
        self.garbage.push((log.id, 0..u64::MAX));
        let rows = log.backlog.entries().map(|(offset, entry)| (log.id, offset, entry.clone()));
        self.publications.extend(rows);
        self.channels.insert(channel.clone(), Record::of(log, log.committed(), clock));
    }
}

impl Record {
    pub fn of(log: &Log, used: Usage, clock: &StoreClock) -> Self {
        Self {
            id: log.id,
            epoch: log.epoch.to_string(),
            offset: used.offset,
            data_bytes: used.data_bytes,
            created: clock.at(log.created.monotonic),
            created_wall: log.created.wall.as_millisecond(),
            ended: match log.state {
                LogState::Ended(reason) => Some(reason.code()),
                _ => None,
            },
            declared: log.declared.as_ref().map(|limits| {
                let ChannelLimits { max_connections, max_messages, max_data_bytes, max_message_bytes, lifespan } =
                    limits;
                [*max_connections, *max_messages, *max_data_bytes, *max_message_bytes, lifespan.as_secs()]
            }),
        }
    }

    /// Restores a new log.
    pub fn apply(&self, log: &mut Log, clock: &StoreClock) -> Usage {
        log.id = self.id;
        log.epoch = self.epoch.as_str().into();
        log.created.monotonic = clock.moment(self.created);
        log.created.wall = jiff::Timestamp::from_millisecond(self.created_wall).unwrap_or(log.created.wall);
        let reason = self.ended.and_then(|code| CloseReason::ALL.into_iter().find(|reason| reason.code() == code));
        log.state = reason.map_or(LogState::Live, LogState::Ended);
        log.declared = self.declared.map(|[max_connections, max_messages, max_data_bytes, max_message_bytes, secs]| {
            ChannelLimits {
                max_connections,
                max_messages,
                max_data_bytes,
                max_message_bytes,
                lifespan: Duration::from_secs(secs),
            }
        });
        Usage { offset: self.offset, data_bytes: self.data_bytes }
    }
}

/// The path of a store that is being created.
fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn wall_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().try_into().unwrap_or(0)
}
