// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The descriptor: memory that senders, a vCPU and its host share.

use super::{
    irq::Vectors,
    state::{
        GuestState,
        HostState,
        IdleEnd, //
    }, //
};
use crate::atomic::{
    const_unless_loom,
    AtomicU32,
    AtomicU64, //
};

/// The line that senders write, and from which the owner takes bits.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct PendingLine {
    /// One bit per vector.
    pub(crate) words: [AtomicU64; Vectors::WORDS],
}

/// The line that the host writes for senders and for the guest.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct HostLine {
    /// A [`HostState`].
    pub(crate) state: AtomicU32,
    /// The guest's poll window, in ns.
    pub(crate) guest_poll_ns: AtomicU32,
    /// The host's poll window, in ns.
    pub(crate) host_poll_ns: AtomicU32,
    /// An [`IdleEnd`](crate::IdleEnd).
    pub(crate) idle_end: AtomicU32,
}

/// The line that the guest writes, on the descriptor's vCPU.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct GuestLine {
    /// A [`GuestState`].
    pub(crate) state: AtomicU32,
    pub(crate) idle_hits: AtomicU32,
    pub(crate) posted: AtomicU64,
    pub(crate) coalesced: AtomicU64,
    pub(crate) elided: AtomicU64,
    pub(crate) kicked: AtomicU64,
    pub(crate) drained: AtomicU64,
}

impl GuestLine {
    const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self {
                state: AtomicU32::new(GuestState::Running.word()),
                idle_hits: AtomicU32::new(0),
                posted: AtomicU64::new(0),
                coalesced: AtomicU64::new(0),
                elided: AtomicU64::new(0),
                kicked: AtomicU64::new(0),
                drained: AtomicU64::new(0),
            }
        }
    }
}

/// The line of the host's statistics.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct StatisticsLine {
    pub(crate) injected: AtomicU64,
    pub(crate) dropped_reserved: AtomicU64,
    pub(crate) forced_exits: AtomicU64,
    pub(crate) drains: AtomicU64,
}

impl StatisticsLine {
    const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self {
                injected: AtomicU64::new(0),
                dropped_reserved: AtomicU64::new(0),
                forced_exits: AtomicU64::new(0),
                drains: AtomicU64::new(0),
            }
        }
    }
}

/// One vCPU's descriptor, in guest memory.
///
/// No two writers share a cache line: senders write the first, the host the second and the fourth, and the guest, on the
/// descriptor's vCPU, the third. Zeroed memory is a descriptor whose vCPU will not poll.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Descriptor {
    pub(crate) pending: PendingLine,
    pub(crate) host: HostLine,
    pub(crate) guest: GuestLine,
    pub(crate) statistics: StatisticsLine,
}

impl Descriptor {
    const_unless_loom! {
        /// Makes a descriptor that is all zero.
        pub fn new() -> Self {
            Self {
                pending: PendingLine {
                    words: [
                        AtomicU64::new(0),
                        AtomicU64::new(0),
                        AtomicU64::new(0),
                        AtomicU64::new(0),
                    ],
                },
                host: HostLine {
                    state: AtomicU32::new(HostState::Running.word()),
                    guest_poll_ns: AtomicU32::new(0),
                    host_poll_ns: AtomicU32::new(0),
                    idle_end: AtomicU32::new(IdleEnd::Expired.number()),
                },
                guest: GuestLine::new(),
                statistics: StatisticsLine::new(),
            }
        }
    }

    /// Returns the vCPU's state in the host, for senders. The host has its own copy.
    #[inline]
    pub fn host_state(&self) -> HostState {
        HostState::from_word(self.host.state.load())
    }

    /// Returns the vCPU's state in the guest.
    #[inline]
    pub fn guest_state(&self) -> GuestState {
        GuestState::from_word(self.guest.state.load())
    }

    /// Returns the pending vectors, without taking them.
    pub fn pending(&self) -> Vectors {
        Vectors::from_words(core::array::from_fn(|index| {
            self.pending.words[index].load()
        }))
    }
}

impl Default for Descriptor {
    fn default() -> Self {
        Self::new()
    }
}

// The layout is an interface. loom's atomics are larger than real ones.
#[cfg(not(loom))]
const _: () = {
    use core::mem::{
        align_of,
        offset_of,
        size_of, //
    };

    assert!(size_of::<Descriptor>() == 256);
    assert!(align_of::<Descriptor>() == 64);

    assert!(offset_of!(Descriptor, pending.words) == 0);
    assert!(offset_of!(Descriptor, host.state) == 64);
    assert!(offset_of!(Descriptor, host.guest_poll_ns) == 68);
    assert!(offset_of!(Descriptor, host.host_poll_ns) == 72);
    assert!(offset_of!(Descriptor, host.idle_end) == 76);
    assert!(offset_of!(Descriptor, guest.state) == 128);
    assert!(offset_of!(Descriptor, guest.idle_hits) == 132);
    assert!(offset_of!(Descriptor, guest.posted) == 136);
    assert!(offset_of!(Descriptor, guest.coalesced) == 144);
    assert!(offset_of!(Descriptor, guest.elided) == 152);
    assert!(offset_of!(Descriptor, guest.kicked) == 160);
    assert!(offset_of!(Descriptor, guest.drained) == 168);
    assert!(offset_of!(Descriptor, statistics.injected) == 192);
    assert!(offset_of!(Descriptor, statistics.dropped_reserved) == 200);
    assert!(offset_of!(Descriptor, statistics.forced_exits) == 208);
    assert!(offset_of!(Descriptor, statistics.drains) == 216);
};
