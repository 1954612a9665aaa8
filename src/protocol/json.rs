//! JSON of untrusted peers: bounded nesting, borrowed strings, raw members.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ErrorCode, Refusal};

/// Deepest accepted nesting of a publication's JSON.
pub const MAX_JSON_DEPTH: usize = 32;

/// A JSON string, borrowed unless it contains escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Keeps a member whose value is `null`. Serde would read it as an absent member.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Checks that `bytes` are exactly one JSON value, nested at most [`MAX_JSON_DEPTH`] levels deep.
pub fn check_json(bytes: &[u8]) -> Result<&str, Refusal> {
    let malformed = |detail: String| Refusal::new(ErrorCode::Malformed, detail);
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("the JSON is not UTF-8".into()))?;
    check_depth(text, MAX_JSON_DEPTH)?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| malformed(format!("not JSON: {error}")))?;
    Ok(text.trim_matches([' ', '\t', '\r', '\n']))
}

/// Refuses nesting deeper than `max_depth`. `text` need not be valid JSON.
pub(super) fn check_depth(text: &str, max_depth: usize) -> Result<(), Refusal> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth {
                    return Err(Refusal::new(
                        ErrorCode::Malformed,
                        format!("the JSON is nested deeper than {max_depth} levels"),
                    ));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Appends `text` as a JSON string with its quotes.
pub fn push_json_string(json: &mut String, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_all_but_one_json_value() {
        for bad in ["", "{", "{} {}", "nul", "\u{feff}1", "[1,]", "{\"a\":01}"] {
            assert!(check_json(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_json(&[b'"', 0xff, b'"']).is_err());
        assert!(check_json(b" [1] \n").is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check_json(nested(MAX_JSON_DEPTH).as_bytes()).is_ok());
        assert!(check_json(nested(MAX_JSON_DEPTH + 1).as_bytes()).is_err());
        assert!(check_json(nested(1_000_000).as_bytes()).is_err());
        assert!(check_json(br#""[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[[[[""#).is_ok());
    }
}
