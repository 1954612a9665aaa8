//! The authenticated identity of a subscriber.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Identity and claims from a verified token. The identity is `(issuer, subject)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    pub issuer: Arc<str>,
    pub subject: Arc<str>,
    /// Values of the `scope` claim (RFC 8693 section 4.2), or of a `scp` list.
    pub scopes: Vec<String>,
    /// The members of the issuer's claim of groups.
    pub groups: Vec<String>,
    /// All claims of the token, for rules that require one. A login session has those that rules use, under the names
    /// that the rules write.
    pub claims: Map<String, Value>,
    /// `exp`, in seconds since 1970. A live connection ends then.
    pub expires: u64,
}

impl Principal {
    /// A claim as rules name it: see [`claim`].
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name).or_else(|| claim(&self.claims, name))
    }

    /// `iat`, in seconds since 1970. 0 without it: revocations treat such a token as old.
    pub fn issued(&self) -> u64 {
        self.claims.get("iat").and_then(Value::as_u64).unwrap_or(0)
    }
}

/// A claim by its name, or by a JSON Pointer (RFC 6901), which begins with `/`: `/realm_access/roles`.
pub fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = pointer.split_at(pointer.find('/').unwrap_or(pointer.len()));
    let first = match first.contains('~') {
        true => Cow::Owned(first.replace("~1", "/").replace("~0", "~")),
        false => Cow::Borrowed(first),
    };
    claims.get(&*first)?.pointer(rest)
}

/// Whether a setting names a claim: a pointer escapes `~` and `/` only.
pub fn is_claim_name(name: &str) -> bool {
    let is_escaped = |rest: &str| rest.starts_with(['0', '1']);
    !name.is_empty() && (!name.starts_with('/') || name.split('~').skip(1).all(is_escaped))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_have_names_and_pointers() {
        let claims = json!({
            "groups": ["a"], "realm_access": {"roles": ["admin"]}, "https://x.example/roles": 1, "": 2,
            "resource_access": {"my/app~": {"roles": ["b"]}}, "list": [{"x": 3}],
        });
        let Value::Object(claims) = claims else { panic!() };
        for (name, value) in [
            ("groups", json!(["a"])),
            ("/groups", json!(["a"])),
            ("/groups/0", json!("a")),
            ("/realm_access/roles", json!(["admin"])),
            ("https://x.example/roles", json!(1)),
            ("/", json!(2)),
            ("/resource_access/my~1app~0/roles", json!(["b"])),
            ("/list/0/x", json!(3)),
        ] {
            assert_eq!(claim(&claims, name), Some(&value), "{name}");
            assert!(is_claim_name(name), "{name}");
        }
        for name in
            ["realm_access/roles", "/realm_access/none", "/groups/1", "/groups/00", "//", "/https://x.example/roles"]
        {
            assert_eq!(claim(&claims, name), None, "{name}");
        }
        assert!(!["", "/a~", "/a~2/b", "/~"].into_iter().any(is_claim_name));
    }
}
