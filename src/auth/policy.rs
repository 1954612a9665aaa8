//! The policy in force: who may publish, who may vouch, what channels allow. A reload replaces all of it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::publisher::Whitelist;
use super::token::Issuers;
use crate::broker::{ChannelRules, Principal};
use crate::protocol::CloseReason;

pub struct Policy {
    whitelist: ArcSwap<Whitelist>,
    issuers: ArcSwap<Issuers>,
    rules: Arc<ArcSwap<ChannelRules>>,
    /// Counts reloads, so that live sessions notice one.
    generation: AtomicU64,
}

impl Policy {
    pub fn new(whitelist: Whitelist, issuers: Issuers, rules: ChannelRules) -> Self {
        Self {
            whitelist: ArcSwap::from_pointee(whitelist),
            issuers: ArcSwap::from_pointee(issuers),
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            generation: AtomicU64::new(1),
        }
    }

    /// All three were checked, so nothing of this can fail half-way.
    pub fn replace(&self, whitelist: Whitelist, issuers: Issuers, rules: ChannelRules) {
        self.whitelist.store(Arc::new(whitelist));
        self.issuers.store(Arc::new(issuers));
        self.rules.store(Arc::new(rules));
        self.generation.fetch_add(1, Ordering::Release);
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

    /// Whether a principal that was admitted before still is.
    pub fn check(&self, principal: &Principal) -> Result<(), CloseReason> {
        if self.issuers.load().knows(&principal.issuer) { Ok(()) } else { Err(CloseReason::Revoked) }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
