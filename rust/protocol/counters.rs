// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What guest and host count, for each other to read.
//!
//! Each counter has one writer, so none needs a read-modify-write. Nobody decides anything by them, but
//! for [`idle_hits`](Descriptor::idle_hits).

use crate::{
    abi::{
        descriptor::Descriptor,
        irq::Vectors, //
    },
    atomic::AtomicU64,
    post::Tally, //
};

/// What a guest's vCPU has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCounters {
    /// Interrupts that it posted, to whomever.
    pub posted: u64,
    /// Those of them whose vector was pending already.
    pub coalesced: u64,
    /// Those of them that the target was going to look for.
    pub elided: u64,
    /// Those of them that had to be sent the platform's own way.
    pub kicked: u64,
    /// Vectors that it drained from its own descriptor.
    pub drained: u64,
}

/// What the host has counted for one vCPU.
///
/// The host keeps these in its own memory, and [publishes](Descriptor::publish) copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStatistics {
    /// Vectors that it drained and injected.
    pub injected: u64,
    /// Reserved vectors that it found pending, and dropped.
    pub dropped_reserved: u64,
    /// How often it took the vCPU out of the guest because there were pending bits.
    pub forced_exits: u64,
    /// Drains that found something.
    pub drains: u64,
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load().wrapping_add(n));
}

impl Descriptor {
    /// Counts posts by the vCPU that this descriptor is of, whose code alone may call this.
    pub fn count_posts(&self, tally: &Tally) {
        add(&self.guest.posted, tally.posts());
        add(&self.guest.coalesced, tally.coalesced);
        add(&self.guest.elided, tally.elided);
        add(&self.guest.kicked, tally.kicked);
    }

    /// Counts vectors drained by the vCPU that this descriptor is of, whose code alone may call
    /// this.
    #[inline]
    pub fn count_drained(&self, vectors: &Vectors) {
        add(&self.guest.drained, u64::from(vectors.len()));
    }

    /// What the vCPU that this descriptor is of has counted.
    pub fn guest_counters(&self) -> GuestCounters {
        GuestCounters {
            posted: self.guest.posted.load(),
            coalesced: self.guest.coalesced.load(),
            elided: self.guest.elided.load(),
            kicked: self.guest.kicked.load(),
            drained: self.guest.drained.load(),
        }
    }

    /// Lets the guest see what the host has counted.
    pub fn publish(&self, statistics: &HostStatistics) {
        let line = &self.statistics;

        line.injected.store(statistics.injected);
        line.dropped_reserved.store(statistics.dropped_reserved);
        line.forced_exits.store(statistics.forced_exits);
        line.drains.store(statistics.drains);
    }

    /// What the host published last, for the guest. The host knows without asking.
    pub fn host_statistics(&self) -> HostStatistics {
        HostStatistics {
            injected: self.statistics.injected.load(),
            dropped_reserved: self.statistics.dropped_reserved.load(),
            forced_exits: self.statistics.forced_exits.load(),
            drains: self.statistics.drains.load(),
        }
    }
}
