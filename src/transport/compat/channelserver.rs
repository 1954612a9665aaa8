//! `/v1/ws/` and `/v1/ws/{id}`: unchanged clients of the channelserver.
//!
//! The clients are pages of other sites, so any page may connect unless the listener lists origins. The id admits a
//! client.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use warp::reply::Response;

use crate::broker::Connection;
use crate::broker::room::{JoinRequest, Key, Seat, new_id};
use crate::cluster::rooms::{Caller, ClientFrame, RoomTarget};
use crate::ops::statsd::RoomEvent;
use crate::protocol::compat::channelserver;
use crate::protocol::compat::channelserver::RequestedRoom;
use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{CloseReason, ErrorCode, Refusal};
use crate::transport::endpoints;
use crate::transport::http::origin;
use crate::transport::http::problem::method_not_allowed;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::rooms::{JoinOutcome, Peer, authorize, caller_of, decoded, older_handshake, reserve};
use crate::transport::state::AppState;
use crate::transport::websocket::Handler;

pub async fn upgrade(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let segment = call.path().strip_prefix("/v1/ws/").filter(|rest| !rest.contains('/')).ok_or(ErrorCode::NotFound)?;
    let requested = match segment {
        "" => None,
        id => Some(decoded(id).and_then(|id| channelserver::parse_id(&id)).ok_or_else(|| {
            app.statsd.count(RoomEvent::RequestError);
            Refusal::from(ErrorCode::NotFound)
        })?),
    };
    if call.method() != "GET" {
        return Ok(method_not_allowed(&endpoints::CHANNELSERVER));
    }
    let handshake = older_handshake(&call)?;
    origin::check_unless_open(&app, &call)?;
    app.statsd.count(if requested.is_some() { RoomEvent::RequestExisting } else { RoomEvent::RequestNew });
    let principal = match requested {
        None => authorize(&app, &call, body, 0).await?.principal,
        Some(_) => None,
    };
    let (shared, caller) = (app.clone(), caller_of(&app, &call));
    Ok(handshake.accept_with(&app, &call, &app.room_connection_limits, None, move |connection| {
        let mut channelserver = peer(shared, connection.clone(), caller, requested);
        channelserver.peer = channelserver.peer.with_principal(principal);
        channelserver
    }))
}

/// A peer of the requested room, or of a new one.
pub fn peer(
    app: Arc<AppState>,
    connection: Arc<Connection>,
    caller: Caller,
    requested: Option<RequestedRoom>,
) -> Channelserver {
    let sender = caller.sender.to_json().into();
    // The client's own node cuts the socket of a remote peer.
    let cuts_unknown_room = !caller.is_remote;
    let mut peer = Peer::joining(app, connection, caller, move |app, request| async move {
        match requested {
            None => open(&app, request).await.into(),
            Some(RequestedRoom::Room(id)) => join(&app, id, request).await,
            Some(RequestedRoom::Unknown) => JoinOutcome::Refused(CloseReason::UnknownRoom),
        }
    });
    peer.cuts_unknown_room = cuts_unknown_room;
    Channelserver { peer, sender }
}

async fn open(app: &AppState, request: JoinRequest) -> Result<Seat, CloseReason> {
    let id = new_id().map_err(|_| CloseReason::RateLimited)?;
    let _reservation = reserve(app, request.address).await.map_err(|refusal| CloseReason::from(refusal.code))?;
    if let Some(cluster) = &app.cluster_rooms {
        cluster.directory.claim(&Key::Channel(id)).await.map_err(|_| CloseReason::EngineUnavailable)?;
    }
    app.rooms.open_channel(id, request, Instant::now())
}

async fn join(app: &AppState, id: RoomId, request: JoinRequest) -> JoinOutcome {
    let key = Key::Channel(id);
    if let Some(cluster) = app.cluster_rooms.as_ref().filter(|_| !app.rooms.has(&key)) {
        match cluster.directory.lookup_owner(&key).await {
            Ok(Some(node)) => return JoinOutcome::OtherNode(node, RoomTarget::Channel(id)),
            Ok(None) => {}
            Err(_) => return JoinOutcome::Refused(CloseReason::EngineUnavailable),
        }
    }
    app.rooms.join_channel(id, request, Instant::now()).into()
}

pub struct Channelserver {
    peer: Peer,
    /// The peer's metadata as JSON.
    sender: Box<str>,
}

impl Handler for Channelserver {
    fn bounds(&self) -> Bounds {
        self.peer.bounds()
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.peer.on_frame()
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        if let Some(forwarder) = self.peer.forwarder() {
            forwarder.forward(ClientFrame::Text(text.to_owned()));
            return Ok(());
        }
        let envelope = channelserver::envelope(text, &self.sender);
        // If the room has ended, this connection was closed with it.
        let _ = self.peer.relay(envelope.len(), |_| text_frame(envelope.as_bytes()));
        Ok(())
    }

    /// Ignored, as in the older system.
    fn on_binary(&mut self, _bytes: &[u8]) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_end(&mut self) {
        self.peer.on_end();
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        self.peer.recheck()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.peer.poll_ready(cx)
    }
}
