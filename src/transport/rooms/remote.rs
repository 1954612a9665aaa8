//! Handlers for peers of this node's rooms whose clients are connected to other nodes.

use std::sync::Arc;

use super::native;
use crate::broker::connection::handler::Handler;
use crate::cluster::rooms::{NewPeerHandler, RoomTarget};
use crate::protocol::compat::channelserver::RequestedRoom;
use crate::transport::compat::{channelserver, relay};
use crate::transport::state::AppState;

/// Makes the handler of a remote peer, which is that of a local peer of the same form.
pub fn remote_peer_handler(app: Arc<AppState>) -> NewPeerHandler {
    Box::new(move |target, connection, caller| -> Box<dyn Handler> {
        let app = app.clone();
        match target {
            RoomTarget::Channel(id) => {
                Box::new(channelserver::peer(app, connection, caller, Some(RequestedRoom::Room(id))))
            }
            RoomTarget::Relay(id) => Box::new(relay::peer(app, connection, caller, id)),
            RoomTarget::Native(room) => Box::new(native::remote_peer(app, connection, caller, room)),
        }
    })
}
