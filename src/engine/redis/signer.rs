//! Signs the publications of this node, and verifies those of all nodes.
//!
//! Redis assigns the offset after the node has signed, so each publication carries one of two MACs. If the node foresaw
//! epoch and offset, the stored MAC covers them, and the publication is valid nowhere else. Otherwise the stored MAC
//! covers neither, and each mirror accepts the publication once, near the time of its acceptance.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use redis::ScriptInvocation;

use super::cluster_key::MAX_CLOCK_SKEW;
use super::guard::{Guard, unix_millis};
use super::wire::{Proof, Received};
use crate::engine::millis::millis;
use crate::protocol::{ChannelName, ErrorCode, Position, Refusal};

/// Channels whose next offset is foreseen. Beyond it, those without a publication in flight are forgotten.
const MAX_FORESEEN_CHANNELS: usize = 10_000;

/// A publication's channel and content, hashed by its publisher's task.
pub struct Unsigned {
    pub channel: ChannelName,
    /// `None` if this node signs nothing.
    content: Option<[u8; 32]>,
    /// The epoch that Redis gives the channel if this publication creates it.
    new_epoch: Arc<str>,
}

/// Owned by the task that sends publications, so that the identifiers rise in the order of sending.
pub struct Signer {
    node: String,
    newest_id: u64,
    foreseen: HashMap<ChannelName, Foreseen>,
}

/// The last known position of a channel, and the publications of this node after it.
struct Foreseen {
    last: Position,
    in_flight: u64,
}

impl Unsigned {
    /// `content` as [`super::wire::encode`] returns it.
    pub fn new(guard: &Guard, channel: ChannelName, content: &[u8], new_epoch: Arc<str>) -> Self {
        let content = guard.writing_keys().map(|_| hash(&channel, content));
        Self { channel, content, new_epoch }
    }
}

impl Signer {
    pub fn new(node: String) -> Self {
        Self { node, newest_id: 0, foreseen: HashMap::new() }
    }

    /// Appends the arguments of the proof. `known` returns this node's last position of a channel.
    pub fn sign(
        &mut self,
        guard: &Guard,
        publication: &Unsigned,
        script: &mut ScriptInvocation<'static>,
        known: impl FnOnce(&ChannelName) -> Option<Position>,
    ) -> Result<(), Refusal> {
        let Unsigned { channel, content, new_epoch } = publication;
        let (Some(keys), Some(content)) = (guard.writing_keys(), content) else { return Ok(()) };
        // Microseconds since 1970, which other nodes compare with their clocks.
        self.newest_id = (self.newest_id + 1).max(unix_millis().saturating_mul(1000));
        if self.foreseen.len() >= MAX_FORESEEN_CHANNELS {
            self.foreseen.retain(|_, foreseen| foreseen.in_flight > 0);
        }
        let foreseen = self.foreseen.entry(channel.clone()).or_insert_with(|| Foreseen {
            last: known(channel).unwrap_or_else(|| Position { epoch: new_epoch.clone(), offset: 0 }),
            in_flight: 0,
        });
        foreseen.in_flight += 1;
        let offset = foreseen.last.offset + foreseen.in_flight;
        let text = |position| text(&self.node, self.newest_id, content, position);
        let sign = |text: Vec<u8>| keys.sign(&text).map_err(|_| Refusal::from(ErrorCode::Internal));
        let (bound, free) = (sign(text(Some((&foreseen.last.epoch, offset))))?, sign(text(None))?);
        script.arg(&self.node).arg(self.newest_id).arg(&*foreseen.last.epoch).arg(offset);
        script.arg(BASE64.encode(bound)).arg(BASE64.encode(free));
        Ok(())
    }

    /// Records the position that Redis assigned; `None` after an error.
    pub fn settle(&mut self, channel: &ChannelName, position: Option<Position>) {
        let Some(foreseen) = self.foreseen.get_mut(channel) else { return };
        foreseen.in_flight = foreseen.in_flight.saturating_sub(1);
        if let Some(position) = position
            && (position.epoch != foreseen.last.epoch || position.offset > foreseen.last.offset)
        {
            foreseen.last = position;
        }
    }
}

/// Whether a node accepted this publication for this channel, and for its position if the proof covers that.
pub fn is_authentic(guard: &Guard, channel: &ChannelName, received: &Received) -> bool {
    let is_authentic = match (&received.proof, guard.keys()) {
        (Some(Proof { node, id, is_bound, mac }), Some(keys)) => {
            let position = is_bound.then_some((received.epoch.as_str(), received.offset));
            keys.verify(&text(node, *id, &hash(channel, received.content()), position), mac)
        }
        // Without a key, this node accepts what every process writes.
        (Some(_), None) => true,
        (None, _) => guard.accepts_unauthenticated(),
    };
    if !is_authentic {
        guard.refuse("publication", channel.as_str());
    }
    is_authentic
}

/// Whether a node accepted this publication, which arrives live, just now. A proof that covers the position needs no clock.
pub fn is_authentic_now(guard: &Guard, channel: &ChannelName, received: &Received) -> bool {
    if !is_authentic(guard, channel, received) {
        return false;
    }
    let is_old = |proof: &Proof| !proof.is_bound && unix_millis().abs_diff(received.time) > millis(MAX_CLOCK_SKEW);
    let is_old = received.proof.as_ref().is_some_and(is_old);
    if is_old {
        guard.refuse("old publication", channel.as_str());
    }
    !is_old
}

/// The signed text. Numbers and the hash have a fixed length, and the node's name stands last.
fn text(node: &str, id: u64, content: &[u8; 32], position: Option<(&str, u64)>) -> Vec<u8> {
    let (epoch, offset) = position.unwrap_or_default();
    let mut text = vec![u8::from(position.is_some())];
    text.extend_from_slice(&id.to_be_bytes());
    text.extend_from_slice(&offset.to_be_bytes());
    text.extend_from_slice(content);
    text.extend_from_slice(&(epoch.len() as u64).to_be_bytes());
    text.extend_from_slice(epoch.as_bytes());
    text.extend_from_slice(node.as_bytes());
    text
}

fn hash(channel: &ChannelName, content: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&(channel.as_str().len() as u64).to_be_bytes());
    context.update(channel.as_str().as_bytes());
    context.update(content);
    let digest = context.finish();
    std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
}

/// Publications of one channel whose proof does not cover their position: each is accepted once.
#[derive(Default)]
pub struct FreePublications {
    /// Time of the newest publication, in milliseconds since 1970.
    newest: u64,
    by_node: HashMap<String, RecentIds>,
}

#[derive(Default)]
struct RecentIds {
    /// The newest ones, at most [`MAX_REORDERED`].
    ids: Vec<u64>,
    /// All up to here are refused.
    floor: u64,
}

/// Redis may order so many publications of one node in another way than they were sent: those that are in flight while a
/// slot of a Cluster moves.
const MAX_REORDERED: usize = 32;

impl FreePublications {
    /// Whether a publication may follow those before it.
    pub fn admit(&mut self, received: &Received) -> bool {
        let Some(Proof { node, id, is_bound, .. }) = &received.proof else { return true };
        let oldest = self.newest.saturating_sub(millis(MAX_CLOCK_SKEW));
        let is_admitted = *is_bound || (received.time >= oldest && self.record(node, *id, oldest));
        if is_admitted {
            self.newest = self.newest.max(received.time);
        }
        is_admitted
    }

    fn record(&mut self, node: &str, id: u64, oldest: u64) -> bool {
        if !self.by_node.contains_key(node) {
            // The time of their publications is enough to refuse them.
            self.by_node.retain(|_, recent| recent.ids.iter().any(|id| id / 1000 >= oldest));
            self.by_node.insert(node.to_owned(), RecentIds::default());
        }
        let Some(recent) = self.by_node.get_mut(node) else { return false };
        if id <= recent.floor || recent.ids.contains(&id) {
            return false;
        }
        recent.ids.push(id);
        if recent.ids.len() > MAX_REORDERED
            && let Some((at, oldest)) = recent.ids.iter().copied().enumerate().min_by_key(|(_, id)| *id)
        {
            recent.ids.swap_remove(at);
            recent.floor = oldest;
        }
        true
    }
}
