//! Limits, counters, quota and codes that all rooms of a node share.

use std::sync::Arc;

use parking_lot::Mutex;

use super::code::Codes;
use super::counters::RoomCounters;
use super::limits::RoomLimits;
use super::quota::RoomQuota;

pub struct RoomContext {
    pub limits: RoomLimits,
    pub counters: Arc<RoomCounters>,
    pub quota: RoomQuota,
    /// Locked last.
    pub codes: Mutex<Codes>,
}
