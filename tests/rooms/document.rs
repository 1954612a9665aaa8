//! The document of the room protocol agrees with the code.

use lastmile::protocol::frame::room_frames::RoomCommand;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/protocol/rooms.md");

/// The lines of the JSON blocks behind a heading.
fn examples(heading: &str) -> Vec<&'static str> {
    let section = DOCUMENT.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let block = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or("");
    block.lines().collect()
}

#[test]
fn json_examples_parse() {
    let mut count = 0;
    for block in DOCUMENT.split("```json\n").skip(1) {
        for line in block.split("```").next().unwrap_or("").lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
    }
    assert!(count > 15);
}

#[test]
fn document_commands_parse() {
    let commands = examples("### Client to gateway");
    assert!(commands.len() > 5);
    for line in commands {
        RoomCommand::parse(line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    }
}
