//! Patterns of channel names with claims of the subscriber's token: `user.{sub}`, `{claim.tenant}.orders.*`.
//!
//! A value stands for exactly one segment. Characters that end a segment or are wildcards are percent-encoded before
//! the comparison. So no value widens a match, and two values never give the same channel.

use std::fmt::Write as _;

use serde_json::Value;

use crate::broker::Principal;
use crate::protocol::channel::is_unprintable;
use crate::protocol::{ChannelName, Pattern};

#[derive(Clone, Debug, PartialEq)]
pub struct ClaimPattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// Text, with `*` as the wildcard.
    Text(Box<str>),
    Claim(Box<str>),
    /// The short name of the token's issuer.
    Issuer,
}

/// The error in a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimPatternError {
    #[error("a brace has no counterpart")]
    Unbalanced,
    /// `{}` or `{claim.}`
    #[error("braces must hold the name of a claim, like {{sub}}")]
    Nameless,
    #[error("a claim in braces must be a whole part between dots, like user.{{sub}}")]
    NotASegment,
}

impl ClaimPattern {
    /// `None` for a pattern without claims.
    pub fn parse(text: &str) -> Result<Option<Self>, ClaimPatternError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            let (name, after) =
                from.strip_prefix('{').and_then(|from| from.split_once('}')).ok_or(ClaimPatternError::Unbalanced)?;
            if name.contains('{') {
                return Err(ClaimPatternError::Unbalanced);
            }
            let is_issuer = name == "iss";
            let name = name.strip_prefix("claim.").unwrap_or(name);
            if name.is_empty() {
                return Err(ClaimPatternError::Nameless);
            }
            let begins = if before.is_empty() { parts.is_empty() } else { before.ends_with('.') };
            if !begins || !(after.is_empty() || after.starts_with('.')) {
                return Err(ClaimPatternError::NotASegment);
            }
            parts.extend((!before.is_empty()).then(|| Part::Text(before.into())));
            parts.push(if is_issuer { Part::Issuer } else { Part::Claim(name.into()) });
            rest = after;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.into())));
        Ok(Some(Self { parts }))
    }

    /// The pattern of all channels that match for any principal: limits use this.
    pub fn shape(&self) -> Pattern {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Claim(_) | Part::Issuer => "*",
        });
        Pattern::new(&parts.collect::<String>())
    }

    /// Whether the channel matches with the principal's claims.
    pub fn matches(&self, channel: &ChannelName, principal: &Principal, issuer_name: Option<&str>) -> bool {
        self.pattern_of(principal, issuer_name).is_some_and(|pattern| pattern.matches(channel))
    }

    /// The pattern with the principal's claims. `None` if a claim is missing, empty, or neither a string nor an
    /// integer, or if the issuer has no name.
    pub fn pattern_of(&self, principal: &Principal, issuer_name: Option<&str>) -> Option<Pattern> {
        let mut pattern = String::with_capacity(64);
        let is_complete = self.parts.iter().all(|part| match part {
            Part::Text(text) => {
                pattern.push_str(text);
                true
            }
            Part::Issuer => issuer_name.is_some_and(|name| push_segment(&mut pattern, name)),
            Part::Claim(name) if &**name == "sub" => push_segment(&mut pattern, &principal.subject),
            Part::Claim(name) => match principal.claim(name) {
                Some(Value::String(text)) => push_segment(&mut pattern, text),
                Some(Value::Number(number)) if !number.is_f64() => {
                    // Writing to a string cannot fail.
                    let _ = write!(pattern, "{number}");
                    true
                }
                _ => false,
            },
        });
        is_complete.then(|| Pattern::new(&pattern))
    }

    /// The names of the claims in the pattern.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) | Part::Issuer => None,
            Part::Claim(name) => Some(&**name),
        })
    }

    /// Whether the pattern tells the tokens of two issuers apart.
    pub fn names_issuer(&self) -> bool {
        self.parts.contains(&Part::Issuer)
    }

    /// The configured text, in its shortest form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                // `{iss}` is the issuer's name, so its claim keeps the long form.
                Part::Claim(name) if &**name == "iss" => text.push_str("{claim.iss}"),
                Part::Claim(name) => text.extend(["{", name, "}"]),
                Part::Issuer => text.push_str("{iss}"),
            }
        }
        text
    }
}

/// Appends a value as one segment: `.`, `*`, `%` and characters that no channel name may have are percent-encoded.
/// `false` for an empty value.
fn push_segment(pattern: &mut String, value: &str) -> bool {
    for c in value.chars() {
        if matches!(c, '.' | '*' | '%') || is_unprintable(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string cannot fail.
                let _ = write!(pattern, "%{byte:02X}");
            }
        } else {
            pattern.push(c);
        }
    }
    !value.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn principal(subject: &str, claims: Value) -> Principal {
        let Value::Object(claims) = claims else { panic!("{claims}") };
        Principal {
            issuer: "i".into(),
            subject: subject.into(),
            scopes: vec![],
            groups: vec![],
            claims,
            expires: u64::MAX,
        }
    }

    fn matches(pattern: &str, principal: &Principal, channel: &str) -> bool {
        let pattern = ClaimPattern::parse(pattern).unwrap().expect("a pattern");
        pattern.matches(&ChannelName::parse(channel).unwrap(), principal, Some("a.b"))
    }

    #[test]
    fn value_matches_its_own_channel_only() {
        let alice = principal("alice", json!({"tenant": "acme", "https://x.example/t": "t", "level": 7}));
        for (pattern, channel, expected) in [
            ("user.{sub}", "user.alice", true),
            ("user.{sub}", "user.bob", false),
            ("user.{sub}", "user.alice.x", false),
            ("user.{sub}", "user.", false),
            ("user.{sub}", "user.Alice", false),
            ("{claim.sub}", "alice", true),
            ("user.{sub}.*", "user.alice.mail", true),
            ("user.{sub}.*", "user.alice", false),
            ("user.{sub}.*", "user.bob.alice.x", false),
            ("{claim.tenant}.orders.*", "acme.orders.1", true),
            ("{tenant}.orders.*", "other.orders.acme.orders.1", false),
            ("{tenant}.{sub}", "acme.alice", true),
            ("{https://x.example/t}.x", "t.x", true),
            ("level.{level}", "level.7", true),
            ("level.{level}", "level.70", false),
        ] {
            assert_eq!(matches(pattern, &alice, channel), expected, "{pattern} and {channel}");
        }
    }

    #[test]
    fn no_value_widens_a_match() {
        for (subject, own) in [
            ("*", "user.%2A"),
            ("a*", "user.a%2A"),
            ("a.b", "user.a%2Eb"),
            ("alice@example.com", "user.alice@example%2Ecom"),
            ("alice.>", "user.alice%2E>"),
            ("a%2Eb", "user.a%252Eb"),
            ("{sub}", "user.{sub}"),
            ("a\nb", "user.a%0Ab"),
            ("a\u{202e}b", "user.a%E2%80%AEb"),
        ] {
            let who = principal(subject, json!({}));
            assert!(matches("user.{sub}", &who, own), "{subject:?}");
            for other in ["user.alice", "user.a.b", "user.bob", "user.alice.mail", "user.x", "user.a"] {
                assert!(!matches("user.{sub}", &who, other), "{subject:?} and {other}");
            }
        }
    }

    #[test]
    fn two_values_never_share_a_channel() {
        let one = principal("b.c", json!({"tenant": "a"}));
        let other = principal("c", json!({"tenant": "a.b"}));
        assert!(matches("{tenant}.{sub}", &one, "a.b%2Ec"));
        assert!(matches("{tenant}.{sub}", &other, "a%2Eb.c"));
        for who in [&one, &other] {
            assert!(!matches("{tenant}.{sub}", who, "a.b.c"));
        }
    }

    #[test]
    fn unusable_claim_matches_no_channel() {
        for value in [json!(null), json!(true), json!(1.5), json!([]), json!(["x"]), json!({"x": 1}), json!("")] {
            let who = principal("alice", json!({"tenant": value}));
            for channel in ["t.x", "t.", "t.true", "t.null", "t.1.5", "t.*"] {
                assert!(!matches("t.{tenant}", &who, channel), "{value} and {channel}");
            }
        }
        assert!(!matches("t.{tenant}", &principal("alice", json!({})), "t."));
    }

    #[test]
    fn shape_has_wildcards_for_claims() {
        for (pattern, shape) in
            [("user.{sub}", "user.*"), ("{a}.{claim.b}.x", "*.*.x"), ("{sub}", "*"), ("a.{sub}.*", "a.*.*")]
        {
            assert_eq!(ClaimPattern::parse(pattern).unwrap().unwrap().shape().as_str(), shape);
        }
        assert_eq!(ClaimPattern::parse("prices.*"), Ok(None));
        assert_eq!(ClaimPattern::parse("a.{claim.b}.c").unwrap().unwrap().text(), "a.{b}.c");
    }

    #[test]
    fn braces_are_a_whole_segment() {
        use ClaimPatternError::{Nameless, NotASegment, Unbalanced};
        for (text, error) in [
            ("user.{sub", Unbalanced),
            ("user.sub}", Unbalanced),
            ("user.{{sub}}", Unbalanced),
            ("user.{}", Nameless),
            ("user.{claim.}", Nameless),
            ("user-{sub}", NotASegment),
            ("user.{sub}x", NotASegment),
            ("user.{sub}*", NotASegment),
            ("user.*{sub}", NotASegment),
            ("{a}{b}", NotASegment),
        ] {
            assert_eq!(ClaimPattern::parse(text), Err(error), "{text}");
        }
    }
}
