//! Carries replies and what becomes of them between nodes: does the errands of this node and answers those of others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::broker::replies::{QueuedTask, RemoteTask, ReplyOutcome};
use crate::broker::{NodeBus, Replies};
use crate::protocol::{Code, Refusal};
use crate::transport::state::AppState;

/// Errands, and words of others, that are done at once.
const MAX_CONCURRENT_TASKS: usize = 256;

/// How often a node says which publishers it has.
const PUBLISHER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// What one node asks another.
#[derive(Serialize, Deserialize)]
enum Request {
    /// To show a reply to its publisher.
    Show {
        publisher: Arc<str>,
        json: Arc<str>,
    },
    Settle(ReplyOutcome),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
enum Response {
    Done,
    /// The publisher has no connection there.
    Absent,
    /// The reply is not there, and why.
    Unknown(String),
}

/// Runs until it is dropped; returns at once where there are no other nodes.
pub async fn run(app: Arc<AppState>) {
    let Some(bus) = app.engine.bus() else { return };
    let replies = app.replies.clone();
    let errands = stream(replies.over_nodes(bus.node()));
    let words = stream(bus.listen(Topic::Replies));
    tokio::join!(
        errands.for_each_concurrent(MAX_CONCURRENT_TASKS, |errand| run_errand(bus.clone(), replies.clone(), errand)),
        words.for_each_concurrent(MAX_CONCURRENT_TASKS, |word| answer(bus.clone(), replies.clone(), word)),
        present(bus.clone(), replies.clone()),
    );
}

fn stream<T>(receiver: UnboundedReceiver<T>) -> impl futures_util::Stream<Item = T> {
    unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

async fn run_errand(bus: Arc<dyn NodeBus>, replies: Replies, (errand, _held): QueuedTask) {
    match errand {
        RemoteTask::Carry { publisher, name, json } => {
            if carry(&*bus, &publisher, &json).await.is_err() {
                // It is tried again within a second, as long as it is kept.
                replies.give_back(&publisher, &name);
            }
        }
        RemoteTask::Settle { node, settlement, done } => {
            let settled = match ask(&*bus, &node, &Request::Settle(settlement)).await {
                Ok(Response::Done) => Ok(()),
                Ok(Response::Unknown(detail)) => Err(Refusal::new(Code::ReplyUnknown, detail)),
                Err(Refusal { code: Code::NotFound, .. }) | Ok(Response::Absent) => Err(Code::ReplyUnknown.into()),
                Err(refusal) => Err(refusal),
            };
            // The publisher may have gone meanwhile.
            let _ = done.send(settled);
        }
        // What fails is said again soon.
        RemoteTask::Publisher(publisher) if replies.has(&publisher) => drop(bus.enter(&publisher).await),
        RemoteTask::Publisher(publisher) => drop(bus.leave(&publisher, bus.node()).await),
    }
}

/// Shows a reply to its publisher wherever that is. An error says that it is nowhere.
async fn carry(bus: &dyn NodeBus, publisher: &Arc<str>, json: &Arc<str>) -> Result<(), Refusal> {
    for node in bus.nodes_of(publisher).await?.iter().filter(|node| *node != bus.node()) {
        let asked = Request::Show { publisher: publisher.clone(), json: json.clone() };
        match ask(bus, node, &asked).await {
            Ok(Response::Done) => return Ok(()),
            Ok(Response::Absent | Response::Unknown(_)) => {}
            Err(Refusal { code: Code::NotFound, .. }) => drop(bus.leave(publisher, node).await),
            // It may have been shown. If it was not, that is noticed when nobody says `received`.
            Err(_) => return Ok(()),
        }
    }
    Err(Code::PublisherAbsent.into())
}

async fn ask(bus: &dyn NodeBus, node: &str, asked: &Request) -> Result<Response, Refusal> {
    let asked = serde_json::to_vec(asked).map_err(|_| Refusal::from(Code::Internal))?;
    let answer = bus.ask(node, Topic::Replies, &asked).await?;
    serde_json::from_slice(&answer).map_err(|_| Code::EngineUnavailable.into())
}

async fn answer(bus: Arc<dyn NodeBus>, replies: Replies, word: NodeMessage) {
    let answer = match serde_json::from_slice(&word.bytes) {
        Ok(Request::Show { publisher, json }) if replies.show(&publisher, &json) => Response::Done,
        Ok(Request::Show { .. }) => Response::Absent,
        Ok(Request::Settle(settlement)) => match replies.settle(&settlement) {
            Ok(()) => Response::Done,
            Err(refusal) => Response::Unknown(refusal.detail.into_owned()),
        },
        Err(_) => {
            tracing::warn!(node = word.from, "a word of another node cannot be read");
            return;
        }
    };
    if let Ok(answer) = serde_json::to_vec(&answer) {
        // Whoever asked goes on without.
        let _ = bus.answer(word, &answer).await;
    }
}

/// Says again and again which publishers are here, also to a Redis that lost its memory, and which are not any more.
async fn present(bus: Arc<dyn NodeBus>, replies: Replies) {
    let mut said = HashSet::new();
    loop {
        // What fails is said again soon.
        for publisher in replies.publishers() {
            let _ = bus.enter(&publisher).await;
            said.insert(publisher);
        }
        let mut gone = Vec::new();
        for publisher in said.iter().filter(|publisher| !replies.has(publisher)) {
            if bus.leave(publisher, bus.node()).await.is_ok() {
                gone.push(publisher.clone());
            }
        }
        said.retain(|publisher| !gone.contains(publisher));
        tokio::time::sleep(PUBLISHER_HEARTBEAT_INTERVAL).await;
    }
}
