//! `lastmile pair`: connects two terminals through a room; lines typed in one are printed in the other.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lastmile_client::{CodeFormat, Gateway, Room, RoomEvent, RoomOptions};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::input::TokenArgs;
use super::runtime::runtime;
use super::signals::Signals;
use super::{input, output, remote};

/// Waits between attempts to resume a lost seat.
const FIRST_RETRY_WAIT: Duration = Duration::from_millis(500);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(2);

/// Characters of a room's id: 16 bytes in base64url.
const ROOM_CHARS: usize = 22;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile pair                      opens a room and prints the code to read out
  lastmile pair apple-river-stone    joins it with that code
  lastmile pair ROOM --secret-file secret.txt --url https://gateway.example

Lines of standard input are sent to the other side, and its lines are printed. A lost connection is resumed. The
gateway limits the number of lines (`rooms.max_exchanges`).
Exit code 0: one side left. 1: the gateway ended the room, or there is none.")]
pub struct Pair {
    /// Code or id of the room to join; without it a new room is opened
    room: Option<String>,
    /// A file with the room's join secret; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "room")]
    secret_file: Option<PathBuf>,
    /// The gateway's listener for pairs
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = remote::parse_url)]
    url: Gateway,
    /// Request a code of six digits instead of three words
    #[arg(long, conflicts_with = "room")]
    digits: bool,
    #[command(flatten)]
    token: TokenArgs,
    /// PEM file with the certificate authorities to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Pair {
    pub fn run(self) -> Result<(), Failure> {
        let Self { room, secret_file, url, digits, token, ca } = self;
        let secret = secret_file.as_deref().map(input::token_file).transpose()?;
        if secret.is_none() && room.as_ref().is_some_and(|room| is_room_id(room)) {
            return Err(Failure::usage("a room id needs --secret-file; a code does not"));
        }
        let gateway = remote::with_authorities(url, ca.as_deref())?.with_backoff(FIRST_RETRY_WAIT, MAX_RETRY_WAIT);
        let token = token.source()?;
        runtime()?.block_on(async {
            let signals = Signals::new(None)?;
            let room = match (room, secret) {
                (None, _) => {
                    let code = if digits { CodeFormat::Digits } else { CodeFormat::Words };
                    Room::open(gateway.clone(), token, &RoomOptions::with_code(code))
                }
                (Some(room), Some(secret)) => Room::join_with_secret(gateway.clone(), token, &room, &secret),
                (Some(code), None) => Room::join_with_code(gateway.clone(), token, &code),
            };
            let room = room.map_err(|error| remote::failure(&gateway, &error))?;
            tokio::select! {
                ended = run_session(&gateway, room) => ended,
                () = signals.first() => Ok(()),
            }
        })
    }
}

fn is_room_id(room: &str) -> bool {
    room.len() == ROOM_CHARS && !room.contains(['-', ' '])
}

/// Exchanges lines until one side leaves.
async fn run_session(gateway: &Gateway, mut room: Room) -> Result<(), Failure> {
    let failed = |error| remote::failure(gateway, &error);
    // Standard input is read only while another peer is in the room.
    let mut lines = None;
    let mut has_peer = false;
    loop {
        tokio::select! {
            event = room.next() => {
                let Some(event) = event else { return Ok(()) };
                match on_event(event.map_err(failed)?)? {
                    PeerChange::None => {}
                    PeerChange::Present(is_present) => has_peer = is_present,
                    PeerChange::Left => break,
                }
            }
            line = next_line(&mut lines), if has_peer => match line {
                Some(line) => {
                    let line = line?;
                    // The reason of a closed room is its last event.
                    let _ = room.send(&line).await;
                }
                None => break,
            }
        }
    }
    room.leave().await;
    Ok(())
}

/// Effect of an event on the presence of the other peer.
enum PeerChange {
    None,
    Present(bool),
    Left,
}

fn on_event(event: RoomEvent) -> Result<PeerChange, Failure> {
    match event {
        RoomEvent::Opened { code, code_secs, .. } => {
            let code = code.unwrap_or_default();
            let (code, secs) = (code.escape_debug(), code_secs.unwrap_or_default());
            output::note(&format!("the code is {code}; within {secs} s, on the other side: lastmile pair {code}"));
        }
        RoomEvent::Joined { peers, recovered, .. } => {
            if recovered == Some(false) {
                output::note("lines may be missing here");
            }
            if !peers.is_empty() {
                output::note("connected");
            }
            return Ok(PeerChange::Present(!peers.is_empty()));
        }
        RoomEvent::PeerJoined(_) => {
            output::note("connected");
            return Ok(PeerChange::Present(true));
        }
        RoomEvent::PeerLeft { reason, .. } if reason == "away" => output::note("the other side lost its connection"),
        RoomEvent::PeerLeft { .. } => return Ok(PeerChange::Left),
        RoomEvent::Message(message) => output::text(&format!("{}\n", line_of(message.data.get())))?,
        RoomEvent::Refused(error) => output::note(&error.message),
        RoomEvent::Reconnecting(error) => {
            output::note(&format!("{}; connecting again", remote::describe(&error)));
            return Ok(PeerChange::Present(false));
        }
        _ => {}
    }
    Ok(PeerChange::None)
}

async fn next_line(lines: &mut Option<mpsc::Receiver<Result<String, Failure>>>) -> Option<Result<String, Failure>> {
    lines.get_or_insert_with(input::lines).recv().await
}

/// Converts a peer's data to a line: text without control characters, or JSON.
fn line_of(data: &str) -> String {
    let text = serde_json::from_str::<String>(data).unwrap_or_else(|_| data.to_owned());
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(line_of(r#""hello \u001b[31m\u009b\n é""#), "hello \u{fffd}[31m\u{fffd}\u{fffd} é");
        assert_eq!(line_of(r#"{"a":1}"#), r#"{"a":1}"#);
    }
}
