//! Sends replies and their outcomes to the nodes that own them, and serves such requests of other nodes.

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
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// Tasks, and requests of other nodes, that run at the same time.
const MAX_CONCURRENT_TASKS: usize = 256;

/// How often a node registers its connected publishers.
const PUBLISHER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A request to another node. The serde names are those of every version that may share a Redis.
#[derive(Serialize, Deserialize)]
enum Request {
    /// Deliver a reply to its publisher.
    #[serde(rename = "Show")]
    Deliver { publisher: Arc<str>, json: Arc<str> },
    /// Record a reply's outcome on the node that keeps the reply.
    #[serde(rename = "Settle")]
    Complete(ReplyOutcome),
}

/// The answer to a [`Request`].
#[derive(Serialize, Deserialize)]
enum Response {
    Done,
    /// The publisher has no connection to the responding node.
    Absent,
    /// The responding node does not keep the reply; with the detail for the publisher.
    Unknown(String),
}

/// Runs until it is dropped.
pub async fn run(bus: Arc<dyn NodeBus>, replies: Replies) {
    let tasks = stream(replies.enable_cluster(bus.node()));
    let requests = stream(bus.subscribe(Topic::Replies));
    tokio::join!(
        tasks.for_each_concurrent(MAX_CONCURRENT_TASKS, |task| run_task(bus.clone(), replies.clone(), task)),
        requests.for_each_concurrent(MAX_CONCURRENT_TASKS, |message| respond(bus.clone(), replies.clone(), message)),
        heartbeat_publishers(bus.clone(), replies.clone()),
    );
}

fn stream<T>(receiver: UnboundedReceiver<T>) -> impl futures_util::Stream<Item = T> {
    unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

async fn run_task(bus: Arc<dyn NodeBus>, replies: Replies, (task, _permit): QueuedTask) {
    match task {
        RemoteTask::Forward { publisher, name, json } => {
            if forward(&*bus, &publisher, &json).await.is_err() {
                // Sent again within a second while the reply is kept.
                replies.requeue(&publisher, &name);
            }
        }
        RemoteTask::Settle { node, outcome, done } => {
            let settled = match request(&*bus, &node, &Request::Complete(outcome)).await {
                Ok(Response::Done) => Ok(()),
                Ok(Response::Unknown(detail)) => Err(Refusal::new(ErrorCode::ReplyUnknown, detail)),
                Err(Refusal { code: ErrorCode::NotFound, .. }) | Ok(Response::Absent) => {
                    Err(ErrorCode::ReplyUnknown.into())
                }
                Err(refusal) => Err(refusal),
            };
            // The publisher may have disconnected.
            let _ = done.send(settled);
        }
        // A failure is corrected by the next heartbeat.
        RemoteTask::Publisher(publisher) if replies.has(&publisher) => drop(bus.register_publisher(&publisher).await),
        RemoteTask::Publisher(publisher) => drop(bus.unregister_publisher(&publisher, bus.node()).await),
    }
}

/// Delivers a reply on a node where its publisher is connected. An error means that there is none.
async fn forward(bus: &dyn NodeBus, publisher: &Arc<str>, json: &Arc<str>) -> Result<(), Refusal> {
    for node in bus.nodes_with_publisher(publisher).await?.iter().filter(|node| *node != bus.node()) {
        let deliver = Request::Deliver { publisher: publisher.clone(), json: json.clone() };
        match request(bus, node, &deliver).await {
            Ok(Response::Done) => return Ok(()),
            Ok(Response::Absent | Response::Unknown(_)) => {}
            Err(Refusal { code: ErrorCode::NotFound, .. }) => drop(bus.unregister_publisher(publisher, node).await),
            // Possibly delivered. If not, the missing `received` makes it overdue, and it is sent again.
            Err(_) => return Ok(()),
        }
    }
    Err(ErrorCode::PublisherAbsent.into())
}

async fn request(bus: &dyn NodeBus, node: &str, request: &Request) -> Result<Response, Refusal> {
    let request = serde_json::to_vec(request).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    let response = bus.request(node, Topic::Replies, &request).await?;
    serde_json::from_slice(&response).map_err(|_| ErrorCode::EngineUnavailable.into())
}

async fn respond(bus: Arc<dyn NodeBus>, replies: Replies, message: NodeMessage) {
    let response = match serde_json::from_slice(&message.bytes) {
        Ok(Request::Deliver { publisher, json }) if replies.deliver(&publisher, &json) => Response::Done,
        Ok(Request::Deliver { .. }) => Response::Absent,
        Ok(Request::Complete(outcome)) => match replies.settle(&outcome) {
            Ok(()) => Response::Done,
            Err(refusal) => Response::Unknown(refusal.detail.into_owned()),
        },
        Err(error) => {
            folded!(WARN, message.from, "cannot decode message from node", node = message.from, %error);
            return;
        }
    };
    if let Ok(response) = serde_json::to_vec(&response) {
        // A lost response is a timeout on the requesting node.
        let _ = bus.respond(message, &response).await;
    }
}

/// Registers this node's publishers again and again, in case Redis lost its data, and unregisters those that left.
async fn heartbeat_publishers(bus: Arc<dyn NodeBus>, replies: Replies) {
    let mut registered = HashSet::new();
    loop {
        // Failures are corrected by the next round.
        for publisher in replies.publishers() {
            let _ = bus.register_publisher(&publisher).await;
            registered.insert(publisher);
        }
        let mut removed = Vec::new();
        for publisher in registered.iter().filter(|publisher| !replies.has(publisher)) {
            if bus.unregister_publisher(publisher, bus.node()).await.is_ok() {
                removed.push(publisher.clone());
            }
        }
        registered.retain(|publisher| !removed.contains(publisher));
        tokio::time::sleep(PUBLISHER_HEARTBEAT_INTERVAL).await;
    }
}
