//! Output of commands: results on standard output, remarks on standard error.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};

use super::failure::Failure;

/// Prints a text unchanged.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::closed_pipe(),
        _ => Failure::failed(format!("cannot write to standard output: {error}")),
    })
}

/// Prints a JSON text of the gateway on one line.
pub fn json_line(json: &str) -> Result<(), Failure> {
    text(&format!("{}\n", on_one_line(json)))
}

/// Prints a remark. A closed standard error is no failure.
pub fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "lastmile: {message}");
}

/// Escapes control characters. Publishers' JSON may hold line ends between values, and control characters in strings
/// that a terminal would interpret. The result is equal JSON.
fn on_one_line(json: &str) -> Cow<'_, str> {
    if !json.contains(char::is_control) {
        return json.into();
    }
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            // JSON allows these between values only.
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_line_json_becomes_one_equal_line() {
        let json = "{\n\t\"a\": \"\u{9b}31m\u{7f}é\",\r\n \"b\": [1,\n2]}";
        let line = on_one_line(json);
        assert!(!line.contains(char::is_control), "{line}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(json));
        assert!(matches!(on_one_line("{\"a\":1}"), Cow::Borrowed(_)));
    }
}
