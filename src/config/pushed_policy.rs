//! Policy in control requests, read and checked by the same code as files.

use jsonwebtoken::jwk::JwkSet;
use serde::Deserialize;
use serde_json::Value;

use super::check;
use super::origin::Source;
use super::path::Path;
use super::report::Report;
use super::schema::Schema;
use super::settings::{Channel, ChannelDefaults};
use super::validate_schema;
use crate::cluster::pushed_policy::WrittenRules;
use crate::ops::log::folded;

/// The body of a request with channel rules.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    channels: Vec<Channel>,
    channel_defaults: ChannelDefaults,
}

/// Parses `{"channels":[…],"channel_defaults":{…}}`, as in the file. Missing defaults are the built-in ones. The error
/// lists every mistake.
pub fn read_rules(body: &[u8]) -> Result<WrittenRules, String> {
    let mut tree: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    let fields = tree.as_object().ok_or("channel rules must be an object with `channels` and `channel_defaults`")?;
    if let Some(other) = fields.keys().find(|key| !matches!(key.as_str(), "channels" | "channel_defaults")) {
        return Err(format!("{:?} cannot be pushed, only `channels` and `channel_defaults`", shortened(other)));
    }
    let mut report = Report::default();
    report.origins.overridden(Path::root(), Source::Request);
    validate_schema::prune(&mut tree, &Schema::of_settings(), &mut report);
    let Rules { channels, channel_defaults } =
        serde_path_to_error::deserialize(tree).map_err(|error| error.to_string())?;
    let rules = check::check_channels(channels, channel_defaults, &mut report);
    let warnings = report.finish().map_err(|error| error.to_string())?;
    warnings.iter().for_each(|warning| folded!(WARN, warning, "warning about pushed policy", %warning));
    Ok(rules)
}

/// Parses a JWK Set of public keys (RFC 7517).
pub fn read_keys(body: &[u8]) -> Result<JwkSet, String> {
    let text = std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned())?;
    crate::auth::token::read_key_set(text.as_bytes())
        .map_err(|reason| format!("not a JWK Set with public keys: {reason}"))
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn written_rules_can_be_pushed_again() {
        let body = json!({"channels": [
            {"match": "user.{sub}", "backlog_messages": 5},
            {"match": "a", "subscribers": [{"scope": "s"}, {"group": ["g"]}], "deny": {"claim": {"level": 3}}},
        ]});
        let first = read_rules(body.to_string().as_bytes()).unwrap();
        let again = read_rules(first.written.to_string().as_bytes()).unwrap();
        assert_eq!((first.rules, first.written), (again.rules, again.written));
    }

    #[test]
    fn mistakes_are_reported_as_for_files() {
        for (body, parts) in [
            ("[]", &["object"][..]),
            ("{", &["not JSON"]),
            (r#"{"limits":{}}"#, &["\"limits\" cannot be pushed"]),
            (r#"{"channels":[{"macth":"a"}]}"#, &["channels[0].macth (request)", "did you mean channels[0].match"]),
            (r#"{"channels":[{"match":"user-{sub}"}]}"#, &["channels[0].match", "whole part between dots"]),
            (r#"{"channels":[{"match":"a","subscribers":[]}]}"#, &["channels[0].subscribers", "at least one"]),
            (r#"{"channel_defaults":{"deny":{}}}"#, &["channel_defaults.deny", "must name"]),
        ] {
            let error = read_rules(body.as_bytes()).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{body}: {error}");
        }
    }
}
