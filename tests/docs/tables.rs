//! Tables and examples of the protocol agree with the code.

use std::process::Command;

use lastmile::ops::metrics::METRICS;
use lastmile::protocol::{CloseReason, ErrorCode};
use lastmile::transport::endpoints::ENDPOINTS;

use crate::markdown::{blocks, read};

/// The documents of the native protocol, without rooms.
const PROTOCOL: [&str; 2] = ["docs/protocol/README.md", "docs/protocol/fallbacks.md"];

/// The rows of the one table that has this header.
fn table(text: &str, header: &str) -> Vec<String> {
    let rows = text.split(header).nth(1).unwrap_or_else(|| panic!("no table {header}"));
    rows.lines().skip(2).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// The example frames of documents.
fn frames(documents: &[&str]) -> Vec<String> {
    let blocks = documents.iter().flat_map(|document| blocks(&read(document), "json"));
    let lines: Vec<String> = blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.into_iter().filter(|line| line.starts_with(r#"{"type":""#)).collect()
}

#[test]
fn protocol_commands_parse() {
    for line in frames(&PROTOCOL) {
        lastmile::protocol::frame::command::Command::parse(&line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    }
}

#[test]
fn close_codes_match_the_code() {
    let rows = table(&read("docs/protocol/README.md"), "| code | name | meaning |");
    let expected: Vec<_> = CloseReason::ALL
        .iter()
        .map(|reason| match reason.name() {
            "" => format!("| {} |  |", reason.code()),
            name => format!("| {} | `{name}` |", reason.code()),
        })
        .collect();
    let written: Vec<_> = rows.iter().map(|row| row.rsplitn(3, '|').last().unwrap_or("").to_owned() + "|").collect();
    assert_eq!(written, expected);
}

#[test]
fn problems_match_the_code() {
    let rows = table(&read("docs/protocol/README.md"), "| problem | status | meaning |");
    let expected: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| format!("| `{}` | {} | {} |", code.slug(), code.status(), code.title()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn metrics_match_the_code() {
    let rows = table(&read("docs/protocol/README.md"), "| metric | kind | meaning |");
    let kind = |is_counter: bool| if is_counter { "counter" } else { "gauge" };
    let expected: Vec<_> = METRICS
        .iter()
        .map(|(name, is_counter, text)| format!("| `{name}` | {} | {text} |", kind(*is_counter)))
        .collect();
    assert_eq!(rows, expected);
}

/// Every example frame has all required members of its `type` in `asyncapi.json`, and no unlisted one.
#[test]
fn frames_fit_asyncapi() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/asyncapi.json")).unwrap();
    let mut seen = 0;
    for line in frames(&PROTOCOL) {
        let frame: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let kind = frame["type"].as_str().unwrap();
        if kind.starts_with("/problems/") {
            continue;
        }
        let payload = &api["components"]["messages"][kind]["payload"];
        let required = payload["required"].as_array().unwrap_or_else(|| panic!("{kind} is not in asyncapi.json"));
        assert!(required.iter().all(|name| frame.contains_key(name.as_str().unwrap())), "{line}");
        assert!(frame.keys().all(|name| payload["properties"].get(name).is_some()), "{line}");
        seen += 1;
    }
    assert!(seen > 15);
}

/// The messages of rooms have names of their own in `asyncapi.json`: one `type` may exist in both directions.
#[test]
fn room_frames_fit_asyncapi() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/asyncapi.json")).unwrap();
    let messages = api["components"]["messages"].as_object().unwrap();
    for line in frames(&["docs/protocol/rooms.md"]) {
        let frame: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let fits = |payload: &serde_json::Value| {
            payload["properties"]["type"]["const"] == frame["type"]
                && payload["required"].as_array().unwrap().iter().all(|name| frame.contains_key(name.as_str().unwrap()))
                && frame.keys().all(|name| payload["properties"].get(name).is_some())
        };
        let is_described =
            messages.iter().any(|(name, message)| name.starts_with("room_") && fits(&message["payload"]));
        assert!(is_described, "{line}");
    }
}

/// Pages and probes for people and load balancers, and listeners whose protocol other documents describe.
const OUTSIDE_OPENAPI: [&str; 6] =
    ["/__heartbeat__", "/__lbheartbeat__", "/__version__", "/demo/{file}", "/{any}", "/{id}"];

#[test]
fn openapi_matches_the_endpoints() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/openapi.json")).unwrap();
    let documented = api["paths"].as_object().unwrap();
    let real: Vec<_> = ENDPOINTS.iter().filter(|endpoint| !OUTSIDE_OPENAPI.contains(&endpoint.path)).collect();
    for endpoint in &real {
        let item = documented.get(endpoint.path).unwrap_or_else(|| panic!("{} is not documented", endpoint.path));
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        let mut methods: Vec<_> = methods.map(|method| method.to_ascii_uppercase()).collect();
        let mut accepted = endpoint.methods.to_vec();
        methods.sort();
        accepted.sort();
        assert_eq!(methods, accepted, "{}", endpoint.path);
    }
    assert_eq!(documented.len(), real.len(), "openapi.json describes a path that does not exist");
}

#[test]
fn commands_match_the_program() {
    let rows = table(&read("docs/reference/commands.md"), "| command | purpose |");
    let mut documented: Vec<_> = rows.iter().filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_lastmile")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap_or_else(|| panic!("no commands in: {help}"));
    // A description that is wrapped is indented further.
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_whitespace().next());
    let mut real: Vec<_> = names.filter(|name| *name != "help").map(|name| format!("lastmile {name}")).collect();
    documented.sort();
    real.sort();
    assert_eq!(documented, real);
}

/// Each row of `docs/reference/memory.md` ends in `[file](link): `CONSTANT``.
#[test]
fn memory_bounds_name_constants() {
    let rows = table(&read("docs/reference/memory.md"), "| bounded | limit | when it is reached | constant |");
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let (_, source) = row.rsplit_once("](../../").unwrap();
        let (path, constant) = source.split_once("): ").unwrap();
        let constant = constant.trim_end_matches(" |").trim_matches('`');
        assert!(read(path).contains(&format!("const {constant}: ")), "{path} has no {constant}");
    }
}
