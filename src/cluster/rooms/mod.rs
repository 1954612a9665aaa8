//! Rooms with peers on several nodes. A room is on one node, so all its rules stay one step under its lock. A client that is
//! connected to another node keeps its socket there; a strand carries its words over the bus to the room's node, where a
//! guest takes its seat, and back.
//!
//! Words arrive at most once, so each batch is numbered, acknowledged and sent again until it is; each side stops while the
//! other is full. Both sides give up what they cannot reach for some seconds: the client is told to connect again.

pub mod address_quota;
pub mod directory;
pub mod forwarder;
pub mod remote_peer;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use self::address_quota::{Openers, Opening};
pub use self::directory::Whereabouts;
use self::forwarder::Line;
pub use self::forwarder::Strand;
use self::remote_peer::Guest;
use self::wire::{Answer, Asked, PATIENCE, ask};
pub use self::wire::{Blob, Said, Wanted};
use crate::broker::engine::node_bus::{Topic, Word};
use crate::broker::room::RoomLimits;
use crate::broker::{Bus, Engine};
use crate::protocol::Refusal;
use crate::transport::rooms::Caller;
use crate::transport::state::App;

/// A side that has not dealt with so much takes no more.
const FULL_BYTES: usize = 256 * 1024;

/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How often nodes tell each other which strands there are.
const HOLD: Duration = Duration::from_secs(3);

/// What is told of rooms is remembered so long without being renewed. What a node told that is gone counts no more.
const LEASE: Duration = Duration::from_secs(120);

/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(40);

/// As many at once.
const AT_ONCE: usize = 64;

/// What a node knows of other nodes' rooms, and where its own can be found.
pub struct Elsewhere {
    bus: Arc<dyn Bus>,
    pub whereabouts: Whereabouts,
    openers: Openers,
    /// Strands of connections of this node, by connection.
    lines: Mutex<HashMap<u64, Arc<Line>>>,
    carried: Gauge,
}

impl Elsewhere {
    /// `None` where there are no other nodes. Registers its metrics with the current recorder.
    pub fn new(engine: &Arc<dyn Engine>, limits: &RoomLimits) -> Option<Arc<Self>> {
        let bus = engine.bus()?;
        let whereabouts = Whereabouts::new(engine.clone(), bus.node().to_owned());
        let carried = gauge!("lastmile_carried_peers");
        let openers = Openers::new(limits);
        Some(Arc::new(Self { bus, whereabouts, openers, lines: Mutex::default(), carried }))
    }

    /// Whether a connection of this node is a peer elsewhere, or was until just now.
    pub fn is_used(&self) -> bool {
        !self.lines.lock().is_empty()
    }

    fn line(&self, strand: u64) -> Option<Arc<Line>> {
        self.lines.lock().get(&strand).cloned()
    }
}

/// Keeps a place for a room that an address is about to open, where there are other nodes that count with this one.
pub async fn reserve(app: &App, address: Option<IpAddr>) -> Result<Option<Opening>, Refusal> {
    match &app.elsewhere {
        Some(elsewhere) => elsewhere.openers.reserve(app.engine.shared(), &app.rooms, address).await,
        None => Ok(None),
    }
}

/// Guests of this node by the node they are connected to, and their strand there.
type Guests = HashMap<String, HashMap<u64, Guest>>;

/// Runs until it is dropped; returns at once where there are no other nodes.
pub async fn run(app: Arc<App>) {
    let Some(elsewhere) = app.elsewhere.clone() else { return };
    let (rooms, forgetful, runtime) = (app.rooms.clone(), elsewhere.clone(), tokio::runtime::Handle::current());
    app.rooms.on_forgotten(move |key| {
        let (rooms, elsewhere, key) = (rooms.clone(), forgetful.clone(), key.clone());
        runtime.spawn(async move { elsewhere.whereabouts.give_up(&rooms, &key).await });
    });
    let guests = Mutex::new(Guests::new());
    let mut words = elsewhere.bus.listen(Topic::Rooms);
    let take_words = async {
        while let Some(word) = words.recv().await {
            answer(&app, &elsewhere, &guests, word);
        }
    };
    let renew = async {
        loop {
            tokio::time::sleep(RENEW).await;
            elsewhere.whereabouts.renew(&app.rooms).await;
        }
    };
    let keep = async {
        loop {
            tokio::time::sleep(SWEEP).await;
            if let Some(shared) = app.engine.shared() {
                elsewhere.openers.keep(shared, &app.rooms).await;
            }
        }
    };
    tokio::join!(take_words, renew, keep, hold(&elsewhere), sweep(&guests));
}

/// Answers one word. What it asks for is done at once, so that words are taken in their order.
fn answer(app: &Arc<App>, elsewhere: &Arc<Elsewhere>, guests: &Mutex<Guests>, word: Word) {
    let answer = match serde_json::from_slice(&word.bytes) {
        Ok(Asked::Enter { strand, wanted, sender, address }) => {
            let caller = Caller { sender: Arc::new(sender), address, is_guest: true };
            let mut guests = guests.lock();
            let of_node = guests.entry(word.from.clone()).or_default();
            of_node
                .entry(strand)
                .or_insert_with(|| Guest::enter(app, elsewhere.bus.clone(), word.from.clone(), strand, wanted, caller));
            Answer::Taken { is_full: false }
        }
        Ok(Asked::Say { strand, number, said }) => {
            let guests = guests.lock();
            let guest = guests.get(&word.from).and_then(|of_node| of_node.get(&strand));
            guest.map_or(Answer::Unknown, |guest| guest.say(number, said))
        }
        Ok(Asked::Hear { strand, number, frames, close }) => match elsewhere.line(strand) {
            Some(line) => line.hear(&word.from, number, frames.0, close),
            None => Answer::Unknown,
        },
        Ok(Asked::Hold { mut strands }) => {
            let (guests, now) = (guests.lock(), Instant::now());
            let of_node = guests.get(&word.from);
            strands.retain(|strand| match of_node.and_then(|of_node| of_node.get(strand)) {
                Some(guest) => {
                    guest.hold(now);
                    false
                }
                None => true,
            });
            Answer::Held { unknown: strands }
        }
        Err(_) => return tracing::warn!(node = word.from, "a word of another node cannot be read"),
    };
    let Ok(answer) = serde_json::to_vec(&answer) else { return };
    let answered = elsewhere.bus.answer(word, &answer);
    // Whoever asked asks again if this is lost.
    tokio::spawn(answered);
}

/// Lets the nodes to which strands lead know that they are there, and cuts those that lead nowhere.
async fn hold(elsewhere: &Elsewhere) {
    let mut reached: HashMap<String, Instant> = HashMap::new();
    loop {
        let mut nodes: HashMap<String, Vec<Arc<Line>>> = HashMap::new();
        for line in elsewhere.lines.lock().values().filter(|line| line.is_known()) {
            nodes.entry(line.node.clone()).or_default().push(line.clone());
        }
        reached.retain(|node, _| nodes.contains_key(node));
        let asked = nodes.iter().map(|(node, lines)| {
            let strands = lines.iter().map(|line| line.connection.id).collect();
            async move { (node, ask(&*elsewhere.bus, node, &Asked::Hold { strands }).await) }
        });
        for (node, answer) in join_all(asked).await {
            let (lines, now) = (&nodes[node], Instant::now());
            let since = reached.entry(node.clone()).or_insert(now);
            match answer {
                Ok(Answer::Held { unknown }) => {
                    *since = now;
                    let unknown: HashSet<u64> = unknown.into_iter().collect();
                    lines.iter().filter(|line| unknown.contains(&line.connection.id)).for_each(|line| line.cut());
                }
                _ if since.elapsed() > PATIENCE => lines.iter().for_each(|line| line.cut()),
                _ => {}
            }
        }
        tokio::time::sleep(HOLD).await;
    }
}

/// Forgets guests that are over.
async fn sweep(guests: &Mutex<Guests>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        guests.lock().retain(|_, of_node| {
            of_node.retain(|_, guest| !guest.is_over(now));
            !of_node.is_empty()
        });
    }
}
