// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Senders that stop for ever in a post, and what that does to another sender of the same vector to the same vCPU.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

wire_enum! {
    /// Where vCPU 2 stops, as far as others can see: a read of the target's state writes nothing.
    StopAt {
        /// It does not send.
        Nowhere,
        /// Between two posts.
        BetweenPosts,
        /// In a post: the target said that it will poll, and the bit is set.
        AfterSet,
    }
}

/// What the VMM and the vCPU that freezes tell each other.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Frozen {
    /// Written by the VMM: where vCPU 2 stops, a [`StopAt`]. It [rings](crate::port::RING) there, and is stopped
    /// until that has been answered.
    pub stop_at: AtomicU32,
    /// Written by the VMM: how often vCPU 2 has stopped.
    pub stops: AtomicU32,
    /// Written by the VMM: which sends of vCPU 0 are measured, those that begin while the VMM says 1.
    pub measured: AtomicU32,
    /// Written by the VMM: that the job is over.
    pub over: AtomicU32,
    /// Written by vCPU 0: that it sends no more, and the last of its interrupts has been acknowledged or is lost.
    pub done: AtomicU32,
    /// Written by the target: how often it has changed what it does.
    pub changes: AtomicU32,
}

impl Frozen {
    /// Forgets everything. No vCPU may be at work.
    pub fn clear(&self) {
        let all = [
            &self.stop_at,
            &self.stops,
            &self.measured,
            &self.over,
            &self.done,
            &self.changes,
        ];
        all.into_iter().for_each(|flag| flag.store(0, Relaxed));
    }

    /// Where vCPU 2 stops.
    pub fn stop_at(&self) -> StopAt {
        StopAt::from_wire(self.stop_at.load(SeqCst)).unwrap_or(StopAt::Nowhere)
    }
}
