// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The counters of guest and host, for each other to read.
//!
//! Each counter has one writer, so none needs a read-modify-write. No decision depends on them, except on
//! [`idle_hits`](Descriptor::idle_hits).

use crate::{
    abi::{
        descriptor::Descriptor,
        irq::Vectors, //
    },
    atomic::AtomicU64,
    post::Tally, //
};

/// The counters of a guest's vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCounters {
    /// Interrupts that the vCPU has posted, to any target.
    pub posted: u64,
    /// Those of them whose vector was pending already.
    pub coalesced: u64,
    /// Those of them that the target would poll.
    pub elided: u64,
    /// Those of them that had to be sent natively.
    pub kicked: u64,
    /// Vectors that the vCPU has drained from its own descriptor.
    pub drained: u64,
}

/// The host's statistics of one vCPU.
///
/// The host keeps these in its own memory, and [publishes](Descriptor::publish) copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStatistics {
    /// Vectors that the host has drained and injected.
    pub injected: u64,
    /// Reserved vectors that the host has found pending, and dropped.
    pub dropped_reserved: u64,
    /// How often the host has forced the vCPU out of `KVM_RUN` for pending bits.
    pub forced_exits: u64,
    /// Drains that have found vectors.
    pub drains: u64,
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load().wrapping_add(n));
}

impl Descriptor {
    /// Counts posts by the descriptor's vCPU. Only for that vCPU.
    pub fn count_posts(&self, tally: &Tally) {
        add(&self.guest.posted, tally.posts());
        add(&self.guest.coalesced, tally.coalesced);
        add(&self.guest.elided, tally.elided);
        add(&self.guest.kicked, tally.kicked);
    }

    /// Counts vectors that the descriptor's vCPU has drained. Only for that vCPU.
    #[inline]
    pub fn count_drained(&self, vectors: &Vectors) {
        add(&self.guest.drained, u64::from(vectors.len()));
    }

    /// Returns the counters of the descriptor's vCPU.
    pub fn guest_counters(&self) -> GuestCounters {
        GuestCounters {
            posted: self.guest.posted.load(),
            coalesced: self.guest.coalesced.load(),
            elided: self.guest.elided.load(),
            kicked: self.guest.kicked.load(),
            drained: self.guest.drained.load(),
        }
    }

    /// Copies the host's statistics to the descriptor, for the guest.
    pub fn publish(&self, statistics: &HostStatistics) {
        let line = &self.statistics;

        line.injected.store(statistics.injected);
        line.dropped_reserved.store(statistics.dropped_reserved);
        line.forced_exits.store(statistics.forced_exits);
        line.drains.store(statistics.drains);
    }

    /// Returns the host's statistics, for the guest. The host has its own copy.
    pub fn host_statistics(&self) -> HostStatistics {
        HostStatistics {
            injected: self.statistics.injected.load(),
            dropped_reserved: self.statistics.dropped_reserved.load(),
            forced_exits: self.statistics.forced_exits.load(),
            drains: self.statistics.drains.load(),
        }
    }
}
