//! The channelserver dialect: the ids of its rooms, its first frame and its envelope.
//!
//! Its web client refuses a `sender` with members that it does not know, so nothing is ever added to one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::publication::push_json_string;

/// What a client asks for behind `/v1/ws/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Room(RoomId),
    /// Well-formed, but longer than any room's id.
    Unknown,
}

/// Reads an id, with or without its padding. `None` for one that is no base64url or has under 16 bytes.
pub fn parse_id(text: &str) -> Option<Wanted> {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let bare = &text[..text.len() - padding];
    // Padding fills up to a multiple of four, or is left out.
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(bare).ok()?;
    match <[u8; RoomId::BYTES]>::try_from(&bytes[..]) {
        Ok(id) => Some(Wanted::Room(RoomId::from(id))),
        Err(_) if bytes.len() > RoomId::BYTES => Some(Wanted::Unknown),
        Err(_) => None,
    }
}

/// The first frame to everybody who is let in.
pub fn hello(room: RoomId) -> String {
    format!(r#"{{"channelid":"{room}","link":"/v1/ws/{room}"}}"#)
}

/// What the others get: the text without the white space around it. `sender` is a JSON object.
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
    fn the_first_frame_and_the_envelope_are_those_of_the_older_system() {
        let Some(Wanted::Room(id)) = parse_id("jvg-n0FXB0kE3rGUIOS5Yw") else { panic!("a good id") };
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
    fn an_id_is_sixteen_bytes_in_base64url_with_or_without_padding() {
        let id = "jvg-n0FXB0kE3rGUIOS5Yw";
        assert_eq!(parse_id(id), parse_id("jvg-n0FXB0kE3rGUIOS5Yw=="));
        assert!(matches!(parse_id(id), Some(Wanted::Room(_))));
        // Longer ones exist nowhere, but clients expect them to be taken.
        assert_eq!(parse_id("0123456789abcdef0123456789abcdef"), Some(Wanted::Unknown));
        assert_eq!(parse_id(&"A".repeat(4000)), Some(Wanted::Unknown));
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
