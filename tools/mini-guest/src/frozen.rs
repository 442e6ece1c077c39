// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Senders that stop for ever in a post, and what that does to another sender of the same vector to the same vCPU.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the VMM and the vCPU that freezes tell each other.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Frozen {
    /// Written by the VMM: which sends of vCPU 0 are measured, those while the VMM says 1.
    pub measured: AtomicU32,
    /// Written by the VMM: that the job is over.
    pub over: AtomicU32,
    /// Written by the target: how often it has changed what it does.
    pub changes: AtomicU32,
}

impl Frozen {
    /// Forgets everything. No vCPU may be at work.
    pub fn clear(&self) {
        let all = [&self.measured, &self.over, &self.changes];
        all.into_iter().for_each(|flag| flag.store(0, Relaxed));
    }
}
