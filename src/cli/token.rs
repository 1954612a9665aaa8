//! `lastmile token`: mints tokens with a local key, for development and for applications that are issuers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::{input, output};
use crate::auth::keys;
use crate::auth::token::{MintingKey, TokenRequest};
use crate::broker::Now;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile token --key keys/app.key --jwks > keys/app.jwks.json
  lastmile token --key keys/app.key --issuer https://app.example --subject alice --scope alerts
  lastmile token --key keys/app.key --issuer https://app.example --subject alice > alice.token
  lastmile subscribe alerts.fire --token-file alice.token

`lastmile keygen -o keys/app.key` generates a key. The gateway accepts such tokens with this configuration:
  [[issuers]]
  issuer = \"https://app.example\"
  audience = \"lastmile\"
  jwks_file = \"keys/app.jwks.json\"")]
pub struct Token {
    /// The issuer's private key: ed25519 (OpenSSH or PEM), P-256 or P-384 (PKCS#8 PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Print the public key as a key set for `jwks_file` instead of a token
    #[arg(long)]
    jwks: bool,
    /// The issuer (`iss`)
    #[arg(long, required_unless_present = "jwks")]
    issuer: Option<String>,
    /// The subject (`sub`), such as a user id
    #[arg(long, required_unless_present = "jwks")]
    subject: Option<String>,
    /// The audience (`aud`) that the gateway's configuration names; may be repeated
    #[arg(long, default_value = "lastmile")]
    audience: Vec<String>,
    /// The lifetime: 90s, 15m, 1h, 1d
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    expires: Duration,
    /// A scope (a word of the claim `scope`); may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// A group (a member of the claim `groups`); may be repeated
    #[arg(long)]
    group: Vec<String>,
    /// Another claim; its value is JSON, or a string if it is not valid JSON; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_claim)]
    claim: Vec<(String, Value)>,
}

impl Token {
    pub fn run(self) -> Result<(), Failure> {
        let Self { key, jwks, issuer, subject, audience, expires, scope, group, claim } = self;
        let key = minting_key(&key)?;
        if jwks {
            let set = serde_json::to_string_pretty(&key.jwks()).map_err(|error| Failure::failed(error.to_string()))?;
            return output::text(&format!("{set}\n"));
        }
        let mut claims = Map::new();
        for (name, value) in claim {
            if claims.insert(name.clone(), value).is_some() {
                return Err(Failure::usage(format!("--claim {name} is given twice")));
            }
        }
        let request = TokenRequest {
            issuer: issuer.unwrap_or_default(),
            subject: subject.unwrap_or_default(),
            audiences: audience,
            lifetime_secs: expires.as_secs(),
            scopes: scope,
            groups: group,
            claims,
        };
        let token = key.mint(request, Now::read().unix()).map_err(|error| Failure::usage(error.to_string()))?;
        output::text(&format!("{token}\n"))
    }
}

/// Reads a signing key: any ed25519 format first, then the key types of tokens only.
fn minting_key(path: &Path) -> Result<MintingKey, Failure> {
    let text = input::private_key_text(path)?;
    let key = match keys::parse_private_key(&text) {
        Ok(key) => MintingKey::from_ed25519(&key).map_err(|error| error.to_string()),
        Err(keys::KeyError::NotEd25519) => MintingKey::from_pkcs8_pem(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    key.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with a unit, such as 90s, 15m, 1h or 1d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let secs: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(secs).filter(|secs| *secs > 0).map(Duration::from_secs).ok_or_else(wrong)
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_secs(86400)));
        for bad in ["", "1", "h", "0s", "1w", "-1h", "1.5h", "99999999999999999999s", "99999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_are_json_or_strings() {
        assert_eq!(parse_claim("tenant=acme"), Ok(("tenant".to_owned(), "acme".into())));
        assert_eq!(parse_claim("level=3"), Ok(("level".to_owned(), 3.into())));
        assert_eq!(parse_claim("q=a=b"), Ok(("q".to_owned(), "a=b".into())));
        assert!(parse_claim("tenant").is_err());
        assert!(parse_claim("=x").is_err());
    }
}
