//! `lastmile check`: checks a configuration and explains its rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::config_args::ConfigArgs;
use super::failure::Failure;
use super::runtime::runtime;
use super::{input, output};
use crate::auth::Revocations;
use crate::auth::fetch::Fetcher;
use crate::auth::token::Issuers;
use crate::broker::channel::session::rfc3339;
use crate::broker::{ChannelRules, Now, Principal};
use crate::config::{self, Config};
use crate::gateway;
use crate::protocol::{ChannelName, Pattern};

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile check
  lastmile check --config /etc/lastmile.toml --channel prices.btc
  lastmile check --publisher market-data
  lastmile check --token @alice.token --channel prices.btc

  lastmile check --strict

Exit code 0: the configuration is valid. 64: it is not, or it is dangerous with --strict; every mistake is listed.
1: the token would be refused.")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Refuse dangerous settings, which are warnings otherwise
    #[arg(long)]
    strict: bool,
    /// Explain the rule of this channel
    #[arg(long)]
    channel: Option<String>,
    /// Explain the permissions of this publisher, by name or fingerprint
    #[arg(long)]
    publisher: Option<String>,
    /// Explain this token: its subject and its channels, or the reason of a refusal. Prefer `@FILE`, or `-` for standard
    /// input: other users of this machine can see arguments
    #[arg(long, conflicts_with = "token_file", value_name = "TOKEN|@FILE|-")]
    token: Option<String>,
    /// As `--token`, for the token in this file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let loaded = self.config.load()?;
        let found = gateway::check(&loaded.config).map_err(|error| Failure::usage(error.to_string()))?;
        for warning in loaded.warnings.iter().chain(&found) {
            output::note(&format!("warning: {warning}"));
        }
        if self.strict && !loaded.warnings.is_empty() {
            let count = loaded.warnings.len();
            return Err(Failure::usage(format!(
                "refused by --strict: {count} warning{}",
                if count == 1 { "" } else { "s" }
            )));
        }
        let token = match (self.token, &self.token_file) {
            (None, Some(file)) => Some(input::token_file(file)?),
            (Some(token), _) => Some(match token.strip_prefix('@') {
                Some(file) => input::token_file(Path::new(file))?,
                None if token == "-" => input::token_file(Path::new("-"))?,
                None => token,
            }),
            (None, None) => None,
        };
        let channel = self.channel.as_deref();
        // With `--token` alone, only the token is explained.
        if token.is_none() || channel.is_some() || self.publisher.is_some() {
            output::text(&config::explain(&loaded.config, channel, self.publisher.as_deref()))?;
        }
        match token {
            Some(token) => check_token(&loaded.config, token.trim(), channel),
            None => Ok(()),
        }
    }
}

fn check_token(config: &Config, token: &str, channel: Option<&str>) -> Result<(), Failure> {
    let issuers = Issuers::new(config.policy.issuers.clone()).map_err(|error| Failure::usage(error.to_string()))?;
    let mut issuers = issuers.with_max_token_bytes(config.limits.transport.max_token_bytes);
    let fetcher = config.fetch.clone().map(Fetcher::new).transpose();
    let fetcher = fetcher.map_err(|error| Failure::usage(error.to_string()))?.map(Arc::new);
    // Keys that are not in a file are fetched, as the gateway does.
    let verified = runtime()?.block_on(async {
        issuers.start(fetcher.as_ref(), &Arc::default());
        issuers.admit(token, Now::read().unix()).await
    });
    let principal = verified.map_err(|error| Failure::failed(format!("the token is refused: {error}")))?;
    if is_revoked(config, &issuers, &principal) {
        return Err(Failure::failed("the token is refused: revocations_file names it"));
    }
    output::text(&principal_text(&principal))?;
    match channel.map(ChannelName::parse) {
        Some(Ok(channel)) => output::text(&channel_verdict(&config.policy.channels.rules, &channel, &principal)),
        // `explain` reported the mistake in the name.
        Some(Err(_)) => Ok(()),
        None => output::text(&rules_verdict(&config.policy.channels.rules, &principal)),
    }
}

/// Checks the revocations of the file only; a running gateway may have received more.
fn is_revoked(config: &Config, issuers: &Issuers, principal: &Principal) -> bool {
    let revocations = Revocations::new(config.limits.max_revocations);
    revocations.keep_for(issuers.longest_lifetime());
    // `gateway::check` reported the mistakes of the list.
    let listed = revocations.replace_from_file(config.policy.revocations.clone(), Now::read().unix());
    listed.is_ok() && revocations.revokes(principal)
}

fn channel_verdict(rules: &ChannelRules, channel: &ChannelName, principal: &Principal) -> String {
    let name = channel.as_str();
    match rules.may_subscribe(channel, Some(principal)) {
        true => format!("  opens channel {name:?}\n"),
        false => format!("  does not open channel {name:?}: {}\n", rules.verdict(channel, principal)),
    }
}

/// Returns the verdict of each rule on the principal.
fn rules_verdict(rules: &ChannelRules, principal: &Principal) -> String {
    let mut text = String::new();
    let scope = rules.issuers.get(&principal.issuer);
    if let Some(patterns) = scope.and_then(|scope| scope.channels.as_ref()) {
        let patterns: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
        text += &format!("  its issuer is limited to: {}\n", patterns.join(", "));
    }
    let issuer_name = scope.and_then(|scope| scope.name.as_deref());
    let named = rules.rules.iter().map(|rule| match &rule.claim_pattern {
        Some(pattern) => (format!("channels {:?}", pattern.text()), rule),
        None => (format!("channels {:?}", rule.pattern.as_str()), rule),
    });
    for (title, rule) in named.chain([("all other channels".to_owned(), &rules.default)]) {
        let own = rule.claim_pattern.as_ref().map(|pattern| pattern.pattern_of(principal, issuer_name));
        text += &match (rule.refuses(principal), own) {
            (Some(reason), _) => format!("  does not open {title}: {reason}\n"),
            (None, Some(None)) => format!("  does not open {title}: the token lacks a claim of the pattern\n"),
            (None, Some(Some(own))) => format!("  opens {title}: {:?}\n", own.as_str()),
            (None, None) => format!("  opens {title}\n"),
        };
    }
    text
}

fn principal_text(principal: &Principal) -> String {
    let Principal { issuer, subject, scopes, groups, claims: _, expires } = principal;
    let mut text = format!("token of {subject:?}, issuer {issuer:?}, until {}\n", rfc3339(*expires));
    for (name, values) in [("scopes", scopes), ("groups", groups)] {
        if !values.is_empty() {
            text += &format!("  {name}: {}\n", values.join(", ").escape_debug());
        }
    }
    text
}
