//! The documents agree with the code: their tables, their examples.

use std::path::Path;

use lastmile::ops::metrics::METRICS;
use lastmile::protocol::{CloseReason, Code};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or("")).collect()
}

/// The rows of the one table that has this header.
fn table(text: &str, header: &str) -> Vec<String> {
    let rows = text.split(header).nth(1).unwrap_or_else(|| panic!("no table {header}"));
    rows.lines().skip(2).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

#[test]
fn every_json_example_is_json() {
    for document in ["docs/protocol/README.md", "docs/protocol/fallbacks.md", "docs/protocol/tslm.md", "README.md"] {
        for block in blocks(&read(document), "json") {
            for line in block.lines() {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|error| panic!("{document}: {line}: {error}"));
            }
        }
    }
}

#[test]
fn commands_and_replies_in_the_protocol_are_known_to_the_code() {
    use lastmile::protocol::command::Command;
    let document = read("docs/protocol/README.md");
    let commands =
        blocks(&document, "json").into_iter().flat_map(str::lines).filter(|line| line.starts_with(r#"{"type":"#));
    for line in commands {
        Command::parse(line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    }
}

#[test]
fn the_table_of_close_codes_is_the_code_s() {
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
fn the_table_of_problems_is_the_code_s() {
    let rows = table(&read("docs/protocol/README.md"), "| problem | status | meaning |");
    let expected: Vec<_> =
        Code::ALL.iter().map(|code| format!("| `{}` | {} | {} |", code.slug(), code.status(), code.title())).collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_table_of_metrics_is_the_code_s() {
    let rows = table(&read("docs/protocol/README.md"), "| metric | kind | meaning |");
    let kind = |is_counter: bool| if is_counter { "counter" } else { "gauge" };
    let expected: Vec<_> = METRICS
        .iter()
        .map(|(name, is_counter, text)| format!("| `{name}` | {} | {text} |", kind(*is_counter)))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for document in [
        "README.md",
        "src/README.md",
        "docs/decisions.md",
        "docs/engines.md",
        "docs/measurements.md",
        "docs/operating.md",
        "docs/recovery.md",
        "docs/protocol/README.md",
        "docs/protocol/fallbacks.md",
        "docs/protocol/rooms.md",
        "docs/protocol/flock.md",
        "docs/protocol/tslm.md",
        "benches/README.md",
        "config/README.md",
        "CHANGELOG.md",
    ] {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target.split('#').next().unwrap_or(""));
            assert!(path.exists(), "{document} links to {target}");
        }
    }
}

/// Every example frame of the protocol document fits the message of its `type` in `asyncapi.json`: it has what is
/// required and nothing that is not listed.
#[test]
fn examples_fit_the_asyncapi_file() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/asyncapi.json")).unwrap();
    let document = read("docs/protocol/README.md");
    let mut seen = 0;
    for line in
        blocks(&document, "json").into_iter().flat_map(str::lines).filter(|line| line.starts_with(r#"{"type":""#))
    {
        let frame: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
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

/// The same for rooms, whose messages have names of their own there: a `type` may mean two things, one in each direction.
#[test]
fn examples_of_rooms_fit_the_asyncapi_file() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/asyncapi.json")).unwrap();
    let messages = api["components"]["messages"].as_object().unwrap();
    let document = read("docs/protocol/rooms.md");
    let frames =
        blocks(&document, "json").into_iter().flat_map(str::lines).filter(|line| line.starts_with(r#"{"type":"#));
    for line in frames {
        let frame: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
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

/// Every path of `openapi.json` stands in the one file that knows them all.
#[test]
fn the_openapi_file_names_the_routes_of_the_gateway() {
    let api: serde_json::Value = serde_json::from_str(&read("docs/protocol/openapi.json")).unwrap();
    let routes = read("src/transport/routes.rs");
    for path in api["paths"].as_object().unwrap().keys() {
        let fixed: Vec<_> = path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{')).collect();
        let filter = fixed.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>().join(" / ");
        let with_name = filter.replace("\"channels\" /", "\"channels\" / String /");
        assert!(routes.contains(&filter) || routes.contains(&with_name), "{path}");
    }
}
