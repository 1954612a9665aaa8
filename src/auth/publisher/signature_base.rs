//! The signature base (RFC 9421 section 2.5): the text that is signed.

use http::{HeaderMap, HeaderName};
use sfv::{FieldType, InnerList, List, ListEntry};

/// The parts of a request that signatures can cover, as received.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// The `Host` header or the `:authority`.
    pub authority: &'a str,
    /// Percent-encoded, never decoded.
    pub path: &'a str,
    /// Without `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// Why a signature base cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BaseError {
    #[error("`{0}` is signed but missing in the request")]
    Missing(String),
    /// A header value is not ASCII, or the component is not supported.
    #[error("component `{0}` is not supported")]
    Unsupported(String),
}

/// Builds the base for the components and parameters of `input`.
///
/// Supports `@method`, `@authority`, `@path`, `@query` and headers, without parameters.
pub(super) fn signature_base(head: &RequestHead<'_>, input: &InnerList) -> Result<String, BaseError> {
    let mut base = String::new();
    for item in &input.items {
        let name = item.bare_item.as_string().filter(|_| item.params.is_empty());
        let name = name.ok_or_else(|| BaseError::Unsupported("a component with parameters".into()))?.as_str();
        base.push_str(&format!("\"{name}\": {}\n", component(head, name)?));
    }
    base.push_str(&format!("\"@signature-params\": {}", serialize(input)));
    Ok(base)
}

/// The strict serialization (RFC 9651 section 4.1), as RFC 9421 section 2.3 requires.
fn serialize(input: &InnerList) -> String {
    let list: List = vec![ListEntry::InnerList(input.clone())];
    list.serialize().unwrap_or_default()
}

fn component(head: &RequestHead<'_>, name: &str) -> Result<String, BaseError> {
    match name {
        "@method" => Ok(head.method.to_owned()),
        "@authority" => Ok(normalized_authority(head.authority)),
        "@path" => Ok(if head.path.is_empty() { "/" } else { head.path }.to_owned()),
        "@query" => Ok(format!("?{}", head.query.unwrap_or_default())),
        _ => header(head.headers, name),
    }
}

/// RFC 9421 section 2.2.3: in lower case and without the default port.
///
/// Both default ports are removed, because a proxy may terminate TLS.
fn normalized_authority(authority: &str) -> String {
    let authority = authority.to_ascii_lowercase();
    let host = [":80", ":443", ":"].iter().find_map(|port| authority.strip_suffix(port));
    host.unwrap_or(&authority).to_owned()
}

/// Whether two authorities are the same in signatures.
pub fn is_same_authority(one: &str, other: &str) -> bool {
    normalized_authority(one) == normalized_authority(other)
}

/// RFC 9421 section 2.1: the trimmed lines of the header, joined by a comma and a space.
fn header(headers: &HeaderMap, name: &str) -> Result<String, BaseError> {
    let unsupported = || BaseError::Unsupported(name.to_owned());
    let is_canonical = !name.starts_with('@') && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| is_canonical).ok_or_else(unsupported)?;
    let lines: Result<Vec<&str>, _> =
        headers.get_all(field).iter().map(|line| line.to_str().map(|text| text.trim_matches([' ', '\t']))).collect();
    match lines.map_err(|_| unsupported())?.as_slice() {
        [] => Err(BaseError::Missing(name.to_owned())),
        lines => Ok(lines.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ed25519_dalek::Signature;
    use http::HeaderValue;
    use sfv::{Dictionary, Parser};

    use super::*;
    use crate::auth::keys::parse_public_key;

    fn parse(input: &str) -> InnerList {
        match Parser::new(input).parse::<Dictionary>().unwrap().swap_remove_index(0) {
            Some((_, ListEntry::InnerList(list))) => list,
            other => panic!("{other:?}"),
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn rebuilds_rfc_9421_example_b_2_6() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/rfc9421-b26.json")))
                .unwrap();
        let text = |name: &str| vector[name].as_str().unwrap();
        let lines: Vec<(&str, &str)> = vector["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| (line[0].as_str().unwrap(), line[1].as_str().unwrap()))
            .collect();
        let head = RequestHead {
            method: text("method"),
            authority: text("authority"),
            path: text("path"),
            query: Some(text("query")),
            headers: &headers(&lines),
        };
        let base = signature_base(&head, &parse(text("signature_input"))).unwrap();
        assert_eq!(base, text("signature_base"));

        let signature = Signature::from_slice(&STANDARD.decode(text("signature")).unwrap()).unwrap();
        let key = parse_public_key(text("public_key")).unwrap();
        assert!(key.verify_strict(base.as_bytes(), &signature).is_ok());
    }

    /// The base of one component, without the line of parameters.
    fn value_of(name: &str, head: &RequestHead<'_>) -> Result<String, BaseError> {
        let base = signature_base(head, &parse(&format!("s=(\"{name}\")")))?;
        let line = base.strip_suffix(&format!("\n\"@signature-params\": (\"{name}\")")).unwrap();
        Ok(line.strip_prefix(&format!("\"{name}\": ")).unwrap().to_owned())
    }

    fn empty_head(headers: &HeaderMap) -> RequestHead<'_> {
        RequestHead { method: "GET", authority: "example.com", path: "/", query: None, headers }
    }

    #[test]
    fn headers_are_canonical() {
        for (lines, expected) in [
            (vec![("x", "one")], "one"),
            (vec![("x", "  one \t ")], "one"),
            (vec![("x", "\tone  two\t")], "one  two"),
            (vec![("x", "")], ""),
            (vec![("x", " ")], ""),
            (vec![("x", "one"), ("x", "two")], "one, two"),
            (vec![("x", " one "), ("x", " two ")], "one, two"),
            (vec![("x", "one,two"), ("x", "three")], "one,two, three"),
            (vec![("x", ""), ("x", "two")], ", two"),
            (vec![("X", "one"), ("y", "other"), ("x", "two")], "one, two"),
        ] {
            assert_eq!(value_of("x", &empty_head(&headers(&lines))).as_deref(), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn authority_is_normalized() {
        for (authority, expected) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com", "example.com"),
            ("example.com:80", "example.com"),
            ("example.com:443", "example.com"),
            ("example.com:", "example.com"),
            ("example.com:8080", "example.com:8080"),
            ("example.com:4430", "example.com:4430"),
            ("example.com:1443", "example.com:1443"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::80]", "[2001:db8::80]"),
            ("127.0.0.1:8081", "127.0.0.1:8081"),
        ] {
            let headers = HeaderMap::new();
            let head = RequestHead { authority, ..empty_head(&headers) };
            assert_eq!(value_of("@authority", &head).as_deref(), Ok(expected), "{authority}");
        }
    }

    #[test]
    fn path_and_query_are_unchanged() {
        for (path, query, expected_path, expected_query) in [
            ("", None, "/", "?"),
            ("/", Some(""), "/", "?"),
            ("/a%2Fb/%c3%a9", Some("x=%20&y=+"), "/a%2Fb/%c3%a9", "?x=%20&y=+"),
            ("/a//b/../c", Some("a?b"), "/a//b/../c", "?a?b"),
        ] {
            let headers = HeaderMap::new();
            let head = RequestHead { path, query, ..empty_head(&headers) };
            assert_eq!(value_of("@path", &head).as_deref(), Ok(expected_path));
            assert_eq!(value_of("@query", &head).as_deref(), Ok(expected_query));
        }
    }

    #[test]
    fn missing_component_is_an_error() {
        let headers = headers(&[("x-latin", "caf\u{e9}")]);
        let head = empty_head(&headers);
        assert_eq!(value_of("x-none", &head), Err(BaseError::Missing("x-none".into())));
        for name in ["@target-uri", "@status", "X-Upper", "x latin", "", "x-latin"] {
            assert_eq!(value_of(name, &head), Err(BaseError::Unsupported(name.into())), "{name}");
        }
        let with_parameters = parse("s=(\"@method\";req)");
        assert!(matches!(signature_base(&head, &with_parameters), Err(BaseError::Unsupported(_))));
        let not_a_string = parse("s=(method)");
        assert!(matches!(signature_base(&head, &not_a_string), Err(BaseError::Unsupported(_))));
    }
}
