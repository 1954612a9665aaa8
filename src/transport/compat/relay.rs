//! `/v1/relay/{id}` and the role `relay`: unchanged clients of the relay.
//!
//! Pages of any site are clients, as in the older system, unless the listener lists origins.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use warp::reply::Response;

use crate::broker::Connection;
use crate::broker::room::{JoinRequest, Key, Relayed};
use crate::cluster::rooms::{Base64Bytes, Caller, ClientFrame, RoomTarget};
use crate::protocol::compat::relay::{MAX_ID_BYTES, looks_like_control, not_received};
use crate::protocol::websocket::{Bounds, binary_frame, text_frame};
use crate::protocol::{CloseReason, ErrorCode, Refusal};
use crate::transport::config::Role;
use crate::transport::http::origin;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::rooms::{JoinOutcome, Peer, authorize, caller_of, decoded, older_handshake, reserve};
use crate::transport::state::AppState;
use crate::transport::websocket::Handler;

pub async fn upgrade(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let id = id_in(&call).filter(|_| call.method() == "GET").ok_or(ErrorCode::NotFound)?;
    let handshake = older_handshake(&call)?;
    origin::check_unless_open(&app, &call)?;
    // The first peer opens a room.
    let principal = authorize(&app, &call, body, 0).await?.principal;
    let (shared, caller) = (app.clone(), caller_of(&app, &call));
    Ok(handshake.accept_with(&app, &call, &app.room_connection_limits, None, move |connection| {
        let mut relay = peer(shared, connection.clone(), caller, id);
        relay.peer = relay.peer.with_principal(principal);
        relay
    }))
}

/// A peer of the room with this id.
pub fn peer(app: Arc<AppState>, connection: Arc<Connection>, caller: Caller, id: String) -> Relay {
    let strict = app.rooms_config.relay_strict;
    let peer = Peer::joining(app, connection, caller, |app, request| join(app, id, request));
    Relay { peer, strict }
}

async fn join(app: Arc<AppState>, id: String, request: JoinRequest) -> JoinOutcome {
    let key = Key::Relay(id.as_str().into());
    let mut name_lock = None;
    if let Some(cluster) = &app.cluster_rooms {
        // The name is not released until the join is complete.
        name_lock = Some(cluster.directory.lock_name(&key).await);
        if !app.rooms.has(&key) {
            match cluster.directory.claim(&key).await {
                Ok(Some(node)) => return JoinOutcome::OtherNode(node, RoomTarget::Relay(id)),
                Ok(None) => {}
                Err(_) => return JoinOutcome::Refused(CloseReason::EngineUnavailable),
            }
        }
    }
    let joined = match app.rooms.join_waiting(&id, request, Instant::now()) {
        Ok(seat) => Ok(seat),
        Err(request) => match reserve(&app, request.address).await {
            Ok(_reservation) => app.rooms.join_relay(&id, request, Instant::now()),
            Err(refusal) => Err(CloseReason::from(refusal.code)),
        },
    };
    drop(name_lock);
    if let (Err(_), Some(cluster)) = (&joined, &app.cluster_rooms) {
        cluster.directory.release(&app.rooms, &key).await;
    }
    joined.into()
}

/// The path segment behind the scope, decoded: 1 to `MAX_ID_BYTES` bytes.
fn id_in(call: &RequestContext) -> Option<String> {
    let rest = if call.has_role(Role::Relay) {
        let rest = call.path().strip_prefix('/')?;
        match call.peer().listener.scope.as_str() {
            "" => rest,
            scope => rest.strip_prefix(scope)?.strip_prefix('/')?,
        }
    } else {
        call.path().strip_prefix("/v1/relay/")?
    };
    let id = decoded(rest).filter(|_| !rest.contains('/'))?;
    (1..=MAX_ID_BYTES).contains(&id.len()).then_some(id)
}

pub struct Relay {
    peer: Peer,
    strict: bool,
}

impl Relay {
    /// `text` is repeated in the response if no other peer is connected.
    fn relay(&self, bytes: &[u8], text: &str, frame: fn(&[u8]) -> Bytes) {
        // If the room has ended, this connection was closed with it.
        if self.peer.relay(bytes.len(), |_| frame(bytes)) == Some(Relayed::NoPeer) {
            self.peer.connection.send(&not_received(text));
        }
    }
}

impl Handler for Relay {
    fn bounds(&self) -> Bounds {
        self.peer.bounds()
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.peer.on_frame()
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        if let Some(forwarder) = self.peer.forwarder() {
            forwarder.forward(ClientFrame::Text(text.to_owned()));
        } else if self.strict && looks_like_control(text) {
            self.peer.connection.send(&not_received(text));
        } else {
            self.relay(text.as_bytes(), text, text_frame);
        }
        Ok(())
    }

    fn on_binary(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        match self.peer.forwarder() {
            Some(forwarder) => forwarder.forward(ClientFrame::Binary(Base64Bytes(bytes.to_owned()))),
            None => self.relay(bytes, "", binary_frame),
        }
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
