//! `lastmile check`: is this configuration good, and what does it mean?

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

Exit code 0: the gateway would start. 64: it would not; every mistake is named. 1: it would refuse the token.")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print what holds for this channel
    #[arg(long)]
    channel: Option<String>,
    /// Print what this publisher may do, by its name or fingerprint
    #[arg(long)]
    publisher: Option<String>,
    /// Say who this token proves and what it opens, or why it is refused: the token, `@FILE`, or `-` for standard
    /// input; other users of this machine can see arguments, so better not the token itself
    #[arg(long, conflicts_with = "token_file", value_name = "TOKEN|@FILE|-")]
    token: Option<String>,
    /// The same for the token in this file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let loaded = self.config.load()?;
        gateway::check(&loaded.config).map_err(|error| Failure::usage(error.to_string()))?;
        for warning in &loaded.warnings {
            output::note(&format!("warning: {warning}"));
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
        // A question about a token alone needs no description of everything else.
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
    let mut issuers = Issuers::new(config.policy.issuers.clone()).map_err(|error| Failure::usage(error.to_string()))?;
    let fetcher = config.fetch.clone().map(Fetcher::new).transpose();
    let fetcher = fetcher.map_err(|error| Failure::usage(error.to_string()))?.map(Arc::new);
    // As the gateway does: keys that are not in a file are asked for.
    let verified = runtime()?.block_on(async {
        issuers.start(fetcher.as_ref());
        issuers.admit(token, Now::read().unix()).await
    });
    let principal = verified.map_err(|error| Failure::failed(format!("the token is refused: {error}")))?;
    if is_revoked(config, &issuers, &principal) {
        return Err(Failure::failed("the token is refused: revocations_file names it"));
    }
    output::text(&principal_text(&principal))?;
    match channel.map(ChannelName::parse) {
        Some(Ok(channel)) => output::text(&channel_verdict(&config.policy.channels.rules, &channel, &principal)),
        // `explain` has said what is wrong with the name.
        Some(Err(_)) => Ok(()),
        None => output::text(&rules_verdict(&config.policy.channels.rules, &principal)),
    }
}

/// By the file; a running gateway may know of more.
fn is_revoked(config: &Config, issuers: &Issuers, principal: &Principal) -> bool {
    let revocations = Revocations::new(config.limits.max_revocations);
    revocations.keep_for(issuers.longest_lifetime());
    // `gateway::check` has said what is wrong with the list.
    let listed = revocations.replace_listed(config.policy.revocations.clone(), Now::read().unix());
    listed.is_ok() && revocations.revokes(principal)
}

fn channel_verdict(rules: &ChannelRules, channel: &ChannelName, principal: &Principal) -> String {
    let name = channel.as_str();
    match rules.may_subscribe(channel, Some(principal)) {
        true => format!("  opens channel {name:?}\n"),
        false => format!("  does not open channel {name:?}: {}\n", rules.verdict(channel, principal)),
    }
}

/// Each rule with what it would say to this principal.
fn rules_verdict(rules: &ChannelRules, principal: &Principal) -> String {
    let mut text = String::new();
    if let Some(patterns) = rules.issuers.get(&principal.issuer) {
        let patterns: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
        text += &format!("  its issuer opens at most: {}\n", patterns.join(", "));
    }
    let named = rules.rules.iter().map(|rule| match &rule.claim_pattern {
        Some(template) => (format!("channels {:?}", template.text()), rule),
        None => (format!("channels {:?}", rule.pattern.as_str()), rule),
    });
    for (what, rule) in named.chain([("all other channels".to_owned(), &rules.default)]) {
        let own = rule.claim_pattern.as_ref().map(|template| template.pattern_of(principal));
        text += &match (rule.refuses(principal), own) {
            (Some(reason), _) => format!("  does not open {what}: {reason}\n"),
            (None, Some(None)) => format!("  does not open {what}: the token lacks a claim that is asked for\n"),
            (None, Some(Some(own))) => format!("  opens {what}: {:?}\n", own.as_str()),
            (None, None) => format!("  opens {what}\n"),
        };
    }
    text
}

fn principal_text(principal: &Principal) -> String {
    let Principal { issuer, subject, scopes, groups, claims: _, expires } = principal;
    let mut text = format!("token of {subject:?}, issuer {issuer:?}, until {}\n", rfc3339(*expires));
    for (what, words) in [("scopes", scopes), ("groups", groups)] {
        if !words.is_empty() {
            text += &format!("  {what}: {}\n", words.join(", ").escape_debug());
        }
    }
    text
}
