//! The policy in force: whitelist, issuers, channel rules and revocations. A reload replaces it atomically.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::publisher::Whitelist;
use super::revocation::{Revocation, RevocationError, Revocations};
use super::token::Issuers;
use crate::broker::{ChannelRules, Principal};
use crate::protocol::CloseReason;

pub struct Policy {
    whitelist: ArcSwap<Whitelist>,
    issuers: ArcSwap<Issuers>,
    rules: Arc<ArcSwap<ChannelRules>>,
    revocations: Revocations,
    /// Policy generation: rises with every change, so that live connections check again.
    generation: AtomicU64,
}

impl Policy {
    /// `rules` are shared with the engine.
    pub fn new(
        whitelist: Whitelist,
        issuers: Issuers,
        rules: Arc<ArcSwap<ChannelRules>>,
        revocations: Revocations,
    ) -> Self {
        revocations.keep_for(issuers.longest_lifetime());
        Self {
            revocations,
            whitelist: ArcSwap::from_pointee(whitelist),
            issuers: ArcSwap::from_pointee(issuers),
            rules,
            generation: AtomicU64::new(1),
        }
    }

    /// Replaces whitelist, issuers and rules. They are already validated, so no step can fail.
    pub fn replace(&self, whitelist: Whitelist, issuers: Issuers, rules: ChannelRules) {
        self.revocations.keep_for(issuers.longest_lifetime());
        self.whitelist.store(Arc::new(whitelist));
        self.issuers.store(Arc::new(issuers));
        self.rules.store(Arc::new(rules));
        self.bump_generation();
    }

    /// Replaces the channel rules only.
    pub fn replace_rules(&self, rules: ChannelRules) {
        self.rules.store(Arc::new(rules));
        self.bump_generation();
    }

    pub fn whitelist(&self) -> Arc<Whitelist> {
        self.whitelist.load_full()
    }

    pub fn issuers(&self) -> Arc<Issuers> {
        self.issuers.load_full()
    }

    pub fn rules(&self) -> &Arc<ArcSwap<ChannelRules>> {
        &self.rules
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Adds a revocation; `now` in seconds since 1970. The caller wakes the connections.
    pub fn revoke(&self, revocation: Revocation, now: u64) -> Result<(), RevocationError> {
        self.revocations.add(revocation, now)?;
        self.bump_generation();
        Ok(())
    }

    /// [`Policy::revoke`] for a revocation that another node or an earlier process accepted.
    pub fn revoke_again(&self, revocation: Revocation, now: u64) -> Result<(), RevocationError> {
        self.revocations.add_again(revocation, now)?;
        self.bump_generation();
        Ok(())
    }

    /// Whether an admitted principal is still accepted: its issuer is configured and nothing revokes it.
    pub fn check(&self, principal: &Principal) -> Result<(), CloseReason> {
        let is_admitted = self.issuers.load().knows(&principal.issuer) && !self.revocations.revokes(principal);
        if is_admitted { Ok(()) } else { Err(CloseReason::Revoked) }
    }

    /// Called after every change.
    fn bump_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
