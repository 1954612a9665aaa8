//! The policy in force: who may publish, who may vouch, what channels allow. A reload replaces all of it at once.

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
    /// Counts changes, so that live sessions notice one.
    generation: AtomicU64,
}

impl Policy {
    pub fn new(whitelist: Whitelist, issuers: Issuers, rules: ChannelRules, revocations: Revocations) -> Self {
        revocations.keep_for(issuers.longest_lifetime());
        Self {
            revocations,
            whitelist: ArcSwap::from_pointee(whitelist),
            issuers: ArcSwap::from_pointee(issuers),
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            generation: AtomicU64::new(1),
        }
    }

    /// All three were checked, so nothing of this can fail half-way.
    pub fn replace(&self, whitelist: Whitelist, issuers: Issuers, rules: ChannelRules) {
        self.revocations.keep_for(issuers.longest_lifetime());
        self.whitelist.store(Arc::new(whitelist));
        self.issuers.store(Arc::new(issuers));
        self.rules.store(Arc::new(rules));
        self.changed();
    }

    /// New channel rules alone.
    pub fn replace_rules(&self, rules: ChannelRules) {
        self.rules.store(Arc::new(rules));
        self.changed();
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

    /// Takes something back; `now` in seconds since 1970. Whoever calls this wakes the connections.
    pub fn revoke(&self, revocation: Revocation, now: u64) -> Result<(), RevocationError> {
        self.revocations.add(revocation, now)?;
        self.changed();
        Ok(())
    }

    /// Whether a principal that was admitted before still is.
    pub fn check(&self, principal: &Principal) -> Result<(), CloseReason> {
        let is_admitted = self.issuers.load().knows(&principal.issuer) && !self.revocations.revokes(principal);
        if is_admitted { Ok(()) } else { Err(CloseReason::Revoked) }
    }

    /// To be called after every change.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
