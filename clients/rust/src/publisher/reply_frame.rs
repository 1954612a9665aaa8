//! A subscriber's reply as the gateway delivered it.

use serde_json::value::RawValue;

use crate::frame::Frame;
use crate::principal::Principal;

/// The members of a `reply` frame.
#[derive(Debug)]
pub(super) struct ReplyFrame {
    pub id: String,
    pub channel: String,
    pub to: String,
    pub time: String,
    pub connection: String,
    pub principal: Option<Principal>,
    pub data: Box<RawValue>,
}

impl ReplyFrame {
    pub(super) fn from_frame(frame: Frame) -> Option<Self> {
        let (data, principal) = (frame.json(), frame.principal());
        Some(Self {
            id: frame.reply?,
            channel: frame.channel?,
            to: frame.to?,
            time: frame.time.unwrap_or_default(),
            connection: frame.connection.unwrap_or_default(),
            principal,
            data,
        })
    }
}
