//! Notices that the policy changed since a connection's rights were checked.

use crate::auth::Policy;

/// The policy generation of the last check.
pub struct PolicyWatch {
    checked: u64,
}

impl PolicyWatch {
    /// Rights that are checked under the present policy.
    pub fn current(policy: &Policy) -> Self {
        Self { checked: policy.generation() }
    }

    /// Rights that may have been revoked since they were checked: due at once.
    pub fn due() -> Self {
        Self { checked: 0 }
    }

    /// Whether a check is due. The caller does it.
    pub fn is_due(&mut self, policy: &Policy) -> bool {
        let generation = policy.generation();
        std::mem::replace(&mut self.checked, generation) != generation
    }
}
