//! The epochs of new channels: a name keeps its epoch until its channel is removed.
//!
//! So the position of a subscriber that waits for the first publication stays valid although nothing is kept for it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::protocol::ChannelName;

/// Names with the same bucket share a count, so a removed channel may change the epoch of a few other waiting names. Their
/// subscribers then get a report of a gap that does not exist.
const BUCKETS: usize = 65_536;

/// A random seed, and the number of removed channels by bucket. Where channels outlive the process, these must as well.
pub struct Lives {
    seed: u64,
    removed: Box<[AtomicU32]>,
}

impl Lives {
    /// No other process has the same epochs.
    pub fn new() -> Self {
        Self::restore(random_seed(), [])
    }

    /// `removed` are counts by bucket, as [`Lives::removed`] returned them.
    pub fn restore(seed: u64, removed: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let lives = Self { seed, removed: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect() };
        for (bucket, count) in removed {
            lives.removed[bucket as usize % BUCKETS].store(count, Ordering::Relaxed);
        }
        lives
    }

    /// The epoch of the channel's next life.
    pub fn epoch(&self, channel: &ChannelName) -> Arc<str> {
        let (_, removed) = self.removed(channel);
        let digest = Sha256::new()
            .chain_update(self.seed.to_be_bytes())
            .chain_update(removed.to_be_bytes())
            .chain_update(channel.as_str())
            .finalize();
        epoch_text(first_u64(&digest))
    }

    /// The channel was removed: its next life has another epoch.
    pub fn end(&self, channel: &ChannelName) {
        self.removed[bucket(channel) as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The channel's bucket, and the number of removed channels in it.
    pub fn removed(&self, channel: &ChannelName) -> (u64, u32) {
        let bucket = bucket(channel);
        (bucket, self.removed[bucket as usize].load(Ordering::Relaxed))
    }
}

/// A seed that differs from those of all other processes and stores.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(())
}

fn bucket(channel: &ChannelName) -> u64 {
    first_u64(&Sha256::digest(channel.as_str())) % BUCKETS as u64
}

fn first_u64(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// 40 bits as 8 letters and digits.
pub fn epoch_text(bits: u64) -> Arc<str> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..8).map(|at| char::from(ALPHABET[(bits >> (5 * at)) as usize % 32])).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::parse(text).unwrap()
    }

    #[test]
    fn epoch_changes_with_each_removal() {
        let lives = Lives::restore(7, []);
        let (first, other) = (lives.epoch(&name("a")), lives.epoch(&name("b")));
        assert_eq!(first, lives.epoch(&name("a")), "it stays while no channel is removed");
        assert_ne!(first, other);
        lives.end(&name("a"));
        let second = lives.epoch(&name("a"));
        assert_ne!(first, second);
        assert_eq!(Lives::restore(7, [lives.removed(&name("a"))]).epoch(&name("a")), second, "after a restart");
        assert_ne!(Lives::new().epoch(&name("a")), Lives::new().epoch(&name("a")), "two processes");
    }
}
