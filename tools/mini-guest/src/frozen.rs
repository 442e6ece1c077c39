// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Senders that stop for ever in a post, and what that does to another sender of the same vector to the same vCPU.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

wire_enum! {
    /// After which step of a post a vCPU stops.
    FreezeAfter {
        /// It does not stop.
        Never,
        /// It stops between two posts.
        Nothing,
        /// It has looked at the states.
        Look,
        /// It has set the pending bit.
        Set,
        /// It has looked again, and has sent no kick.
        SecondLook,
    }
}

/// What the VMM and the vCPU that freezes tell each other.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Frozen {
    /// Written by the VMM: a [`FreezeAfter`], where the vCPU is to stop as long as this stays.
    pub after: AtomicU32,
    /// Written by the vCPU: where it has stopped.
    pub at: AtomicU32,
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
        let all = [
            &self.after,
            &self.at,
            &self.measured,
            &self.over,
            &self.changes,
        ];
        all.into_iter().for_each(|flag| flag.store(0, Relaxed));
    }

    /// Where the vCPU is to stop.
    pub fn wanted(&self) -> FreezeAfter {
        FreezeAfter::from_wire(self.after.load(SeqCst)).unwrap_or(FreezeAfter::Never)
    }
}
