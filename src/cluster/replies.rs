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
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::state::AppState;

/// Errands, and words of others, that are done at once.
const MAX_CONCURRENT_TASKS: usize = 256;

/// How often a node says which publishers it has.
const PUBLISHER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A request to another node. The serde names are those of every version that may share a Redis.
#[derive(Serialize, Deserialize)]
enum Request {
    /// Deliver a reply to its publisher.
    #[serde(rename = "Show")]
    Deliver { publisher: Arc<str>, json: Arc<str> },
    #[serde(rename = "Settle")]
    Complete(ReplyOutcome),
}

/// The answer to a [`Request`].
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
    let Some(bus) = app.engine.node_bus() else { return };
    let replies = app.replies.clone();
    let errands = stream(replies.enable_cluster(bus.node()));
    let words = stream(bus.subscribe(Topic::Replies));
    tokio::join!(
        errands.for_each_concurrent(MAX_CONCURRENT_TASKS, |errand| run_task(bus.clone(), replies.clone(), errand)),
        words.for_each_concurrent(MAX_CONCURRENT_TASKS, |word| respond(bus.clone(), replies.clone(), word)),
        heartbeat_publishers(bus.clone(), replies.clone()),
    );
}

fn stream<T>(receiver: UnboundedReceiver<T>) -> impl futures_util::Stream<Item = T> {
    unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

async fn run_task(bus: Arc<dyn NodeBus>, replies: Replies, (errand, _held): QueuedTask) {
    match errand {
        RemoteTask::Forward { publisher, name, json } => {
            if forward(&*bus, &publisher, &json).await.is_err() {
                // It is tried again within a second, as long as it is kept.
                replies.requeue(&publisher, &name);
            }
        }
        RemoteTask::Settle { node, settlement, done } => {
            let settled = match request(&*bus, &node, &Request::Complete(settlement)).await {
                Ok(Response::Done) => Ok(()),
                Ok(Response::Unknown(detail)) => Err(Refusal::new(ErrorCode::ReplyUnknown, detail)),
                Err(Refusal { code: ErrorCode::NotFound, .. }) | Ok(Response::Absent) => {
                    Err(ErrorCode::ReplyUnknown.into())
                }
                Err(refusal) => Err(refusal),
            };
            // The publisher may have gone meanwhile.
            let _ = done.send(settled);
        }
        // What fails is said again soon.
        RemoteTask::Publisher(publisher) if replies.has(&publisher) => drop(bus.register_publisher(&publisher).await),
        RemoteTask::Publisher(publisher) => drop(bus.unregister_publisher(&publisher, bus.node()).await),
    }
}

/// Shows a reply to its publisher wherever that is. An error says that it is nowhere.
async fn forward(bus: &dyn NodeBus, publisher: &Arc<str>, json: &Arc<str>) -> Result<(), Refusal> {
    for node in bus.nodes_with_publisher(publisher).await?.iter().filter(|node| *node != bus.node()) {
        let asked = Request::Deliver { publisher: publisher.clone(), json: json.clone() };
        match request(bus, node, &asked).await {
            Ok(Response::Done) => return Ok(()),
            Ok(Response::Absent | Response::Unknown(_)) => {}
            Err(Refusal { code: ErrorCode::NotFound, .. }) => drop(bus.unregister_publisher(publisher, node).await),
            // It may have been shown. If it was not, that is noticed when nobody says `received`.
            Err(_) => return Ok(()),
        }
    }
    Err(ErrorCode::PublisherAbsent.into())
}

async fn request(bus: &dyn NodeBus, node: &str, asked: &Request) -> Result<Response, Refusal> {
    let asked = serde_json::to_vec(asked).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    let answer = bus.request(node, Topic::Replies, &asked).await?;
    serde_json::from_slice(&answer).map_err(|_| ErrorCode::EngineUnavailable.into())
}

async fn respond(bus: Arc<dyn NodeBus>, replies: Replies, word: NodeMessage) {
    let answer = match serde_json::from_slice(&word.bytes) {
        Ok(Request::Deliver { publisher, json }) if replies.deliver(&publisher, &json) => Response::Done,
        Ok(Request::Deliver { .. }) => Response::Absent,
        Ok(Request::Complete(settlement)) => match replies.settle(&settlement) {
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
async fn heartbeat_publishers(bus: Arc<dyn NodeBus>, replies: Replies) {
    let mut said = HashSet::new();
    loop {
        // What fails is said again soon.
        for publisher in replies.publishers() {
            let _ = bus.register_publisher(&publisher).await;
            said.insert(publisher);
        }
        let mut gone = Vec::new();
        for publisher in said.iter().filter(|publisher| !replies.has(publisher)) {
            if bus.unregister_publisher(publisher, bus.node()).await.is_ok() {
                gone.push(publisher.clone());
            }
        }
        said.retain(|publisher| !gone.contains(publisher));
        tokio::time::sleep(PUBLISHER_HEARTBEAT_INTERVAL).await;
    }
}
