//! The channelserver protocol: room ids, the first frame and the message envelope.
//!
//! Its web client refuses a `sender` with unknown members, so `sender` must never get a new one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::json::push_json_string;

/// The room that a path `/v1/ws/ID` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedRoom {
    Room(RoomId),
    /// Well-formed but longer than a room id, so no room has it.
    Unknown,
}

/// Parses an id with or without padding. `None` if it is not base64url or has fewer than 16 bytes.
pub fn parse_id(text: &str) -> Option<RequestedRoom> {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let bare = &text[..text.len() - padding];
    // Padding extends the text to a multiple of four, or is absent.
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(bare).ok()?;
    match <[u8; RoomId::BYTES]>::try_from(&bytes[..]) {
        Ok(id) => Some(RequestedRoom::Room(RoomId::from(id))),
        Err(_) if bytes.len() > RoomId::BYTES => Some(RequestedRoom::Unknown),
        Err(_) => None,
    }
}

/// The first frame to each admitted peer.
pub fn hello(room: RoomId) -> String {
    format!(r#"{{"channelid":"{room}","link":"/v1/ws/{room}"}}"#)
}

/// The frame to the other peers: the trimmed text. `sender` is a JSON object.
pub fn envelope(text: &str, sender: &str) -> String {
    let text = text.trim();
    let mut json = String::with_capacity(24 + text.len() + sender.len());
    json.push_str(r#"{"message":"#);
    push_json_string(&mut json, text);
    json.push_str(r#","sender":"#);
    json.push_str(sender);
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::room_frames::Sender;

    #[test]
    fn writes_hello_and_envelope() {
        let Some(RequestedRoom::Room(id)) = parse_id("jvg-n0FXB0kE3rGUIOS5Yw") else { panic!("a good id") };
        assert_eq!(hello(id), r#"{"channelid":"jvg-n0FXB0kE3rGUIOS5Yw","link":"/v1/ws/jvg-n0FXB0kE3rGUIOS5Yw"}"#);
        let sender = Sender {
            city: Some("London".into()),
            country: Some("United Kingdom".into()),
            region: Some("England".into()),
            remote: Some("81.2.69.142".into()),
            ua: Some("Mozilla/5.0 X".into()),
        };
        assert_eq!(
            envelope(" \u{a0}aBc12e\n\u{2003}", &sender.to_json()),
            r#"{"message":"aBc12e","sender":{"city":"London","country":"United Kingdom","region":"England","remote":"81.2.69.142","ua":"Mozilla/5.0 X"}}"#
        );
        assert_eq!(envelope("  ", &Sender::default().to_json()), r#"{"message":"","sender":{}}"#);
        assert_eq!(envelope("é\"\\\u{1}", "{}"), r#"{"message":"é\"\\\u0001","sender":{}}"#);
    }

    #[test]
    fn parses_ids_with_or_without_padding() {
        let id = "jvg-n0FXB0kE3rGUIOS5Yw";
        assert_eq!(parse_id(id), parse_id("jvg-n0FXB0kE3rGUIOS5Yw=="));
        assert!(matches!(parse_id(id), Some(RequestedRoom::Room(_))));
        // No room has a longer id, but clients expect the upgrade to succeed.
        assert_eq!(parse_id("0123456789abcdef0123456789abcdef"), Some(RequestedRoom::Unknown));
        assert_eq!(parse_id(&"A".repeat(4000)), Some(RequestedRoom::Unknown));
        let wrong = [
            "",
            "abcd",
            "jvg-n0FXB0kE3rGUIOS5Y",
            "jvg-n0FXB0kE3rGUIOS5Yw=",
            "jvg-n0FXB0kE3rGUIOS5Yw===",
            "jvg+n0FXB0kE3rGUIOS5Yw",
            "jvg-n0FXB0kE3rGUIOS5Yx",
            "jvg-n0FXB0kE3rGUIOS5Y%",
            "==",
            "éééééééééééééééé",
        ];
        for id in wrong {
            assert_eq!(parse_id(id), None, "{id}");
        }
    }
}
