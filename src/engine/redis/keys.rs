//! The names of keys and of pub/sub, and the scripts. The keys and the pub/sub of a channel are in one slot.

use std::sync::LazyLock;

use redis::Script;
use redis::cluster_routing::Slot;

use crate::protocol::ChannelName;

/// Probes of a node in a Cluster; one that returns is enough.
pub const PROBES: usize = 6;

const SLOTS: usize = 16384;

pub struct Keys(String);

impl Keys {
    /// `prefix` begins every name.
    pub fn new(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }

    /// Begins every name.
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// Epoch, offset and limits of a channel.
    pub fn state(&self, channel: &ChannelName) -> String {
        self.of(channel, "state")
    }

    /// The stream with the backlog of a channel.
    pub fn stream(&self, channel: &ChannelName) -> String {
        self.of(channel, "log")
    }

    /// Reserved slots of a channel by node.
    pub fn subscriber_quota(&self, channel: &ChannelName) -> String {
        self.of(channel, "seats")
    }

    /// The epoch with which subscribers wait for a channel.
    pub fn wait(&self, channel: &ChannelName) -> String {
        self.of(channel, "wait")
    }

    /// The time at which a channel was closed last.
    pub fn closed(&self, channel: &ChannelName) -> String {
        self.of(channel, "closed")
    }

    /// Nodes that watch the presence of a channel.
    pub fn watch(&self, channel: &ChannelName) -> String {
        self.of(channel, "watch")
    }

    /// The pub/sub of a channel.
    pub fn pubsub(&self, channel: &ChannelName) -> String {
        self.of(channel, "live")
    }

    /// The channel whose pub/sub has this name.
    pub fn channel(&self, pubsub: &str) -> Option<ChannelName> {
        let tag = pubsub.strip_prefix(self.0.as_str())?.strip_prefix(":{/")?.strip_suffix("}:live")?;
        let name = percent_encoding::percent_decode_str(tag).decode_utf8().ok()?;
        ChannelName::from_dialect(&name).ok()
    }

    /// Pub/sub names for the probes of one node. They are spread evenly over the slots of a Cluster: each master has a range
    /// of slots, so the probes are on several masters.
    pub fn probes(&self, node: &str) -> [String; PROBES] {
        let name = |n| format!("{}:{{{node}.{n}}}:probe", self.0);
        std::array::from_fn(|part| {
            let slots = part * SLOTS / PROBES..(part + 1) * SLOTS / PROBES;
            let slots: Vec<_> = slots.filter_map(|slot| Slot::new(slot as u16)).collect();
            // If the prefix has braces, it decides the slot of every name.
            (0..1000).map(name).find(|name| slots.contains(&Slot::for_key(name))).unwrap_or_else(|| name(part))
        })
    }

    /// A name of the shared store.
    pub fn shared(&self, name: &str) -> String {
        format!("{}:once:{name}", self.0)
    }

    /// The stream that is the log of the shared store.
    pub fn broadcast_log(&self) -> String {
        format!("{}:told", self.0)
    }

    /// The list of nodes.
    pub fn nodes(&self) -> String {
        format!("{}:nodes", self.0)
    }

    /// The status of a node, and the name of its pub/sub.
    pub fn node(&self, node: &str) -> String {
        format!("{}:node:{node}", self.0)
    }

    /// The nodes that have a connection of a publisher.
    pub fn publisher(&self, name: &str) -> String {
        format!("{}:publisher:{name}", self.0)
    }

    fn of(&self, channel: &ChannelName, kind: &str) -> String {
        // The text in braces decides the slot, so braces of the channel's name are escaped.
        const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'{').add(b'}').add(b'%');
        let tag = percent_encoding::utf8_percent_encode(channel.as_str(), ESCAPED);
        // The slash keeps the braces from being empty, which Redis would ignore.
        format!("{}:{{/{tag}}}:{kind}", self.0)
    }
}

/// The scripts of this process.
pub static SCRIPTS: LazyLock<Scripts> = LazyLock::new(Scripts::default);

/// One script for each operation that must be atomic.
pub struct Scripts {
    pub append: Script,
    pub attach: Script,
    pub create: Script,
    pub close: Script,
    pub describe: Script,
    pub reserve: Script,
    pub claim: Script,
    pub release: Script,
    pub count: Script,
    pub watch: Script,
    pub leave: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            append: with_first_epoch(include_str!("scripts/append.lua")),
            attach: with_first_epoch(include_str!("scripts/attach.lua")),
            create: with_first_epoch(include_str!("scripts/create.lua")),
            close: Script::new(include_str!("scripts/close.lua")),
            describe: with_first_epoch(include_str!("scripts/describe.lua")),
            reserve: Script::new(include_str!("scripts/reserve.lua")),
            claim: Script::new(include_str!("scripts/claim.lua")),
            release: Script::new(include_str!("scripts/release.lua")),
            count: Script::new(include_str!("scripts/count.lua")),
            watch: Script::new(include_str!("scripts/watch.lua")),
            leave: Script::new(include_str!("scripts/leave.lua")),
        }
    }
}

/// A script that begins channels.
fn with_first_epoch(script: &str) -> Script {
    Script::new(&[include_str!("scripts/first_epoch.lua"), script].concat())
}

impl Scripts {
    pub fn all(&self) -> [&Script; 11] {
        let Self { append, attach, create, close, describe, reserve, claim, release, count, watch, leave } = self;
        [append, attach, create, close, describe, reserve, claim, release, count, watch, leave]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_reversible() {
        let keys = Keys::new("lastmile");
        let mut seen = std::collections::HashSet::new();
        for name in ["a", "a:b", "{a}", "a}:live", "%7Ba%7D", "ä €", "a/b?c#d", "", "$x"] {
            let channel = ChannelName::from_dialect(name).unwrap();
            assert_eq!(keys.channel(&keys.pubsub(&channel)).as_ref(), Some(&channel), "{name}");
            assert!(seen.insert(keys.state(&channel)), "{name}");
        }
        assert!(keys.channel("other:{/a}:live").is_none());
    }

    #[test]
    fn probes_cover_three_masters() {
        let probes = Keys::new("lastmile").probes("abcdefgh");
        let third =
            |part: usize| (part * SLOTS / 3..(part + 1) * SLOTS / 3).map(|slot| Slot::new(slot as u16).unwrap());
        for part in 0..3 {
            assert_eq!(probes.iter().filter(|name| third(part).any(|slot| slot == Slot::for_key(name))).count(), 2);
        }
        assert_eq!(Keys::new("{x}").probes("abcdefgh").len(), PROBES);
    }
}
