// SPDX-License-Identifier: GPL-2.0

//! A vCPU as seen by interrupt sources outside the guest.
//!
//! If no descriptor takes a post, the vCPU is kicked: the vector becomes pending here, in the host's memory, and the
//! thread that runs the vCPU is forced out of `KVM_RUN`, at once or [after a pause](crate::vm::moderation). It injects
//! the pending vectors before it goes on. If no thread runs the vCPU, the next `KVM_RUN` injects them.
//!
//! # Concurrency
//!
//! A sender sets a pending bit and then looks for the thread; a thread announces itself and then reads the pending
//! bits. The barriers are those of the posting protocol and of [`Kicker`]. Any context but NMIs.
//!
//! A vCPU that has never been a target is untracked: its thread does not announce itself, but only sets
//! [`KickTarget::untracked`] and then reads [`KickTarget::is_tracked`], without a barrier in between. The caller of
//! [`KickTarget::track`] pays for that with a barrier on all CPUs, and then kicks the thread out of an untracked run.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        ListLinks, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    }, //
};
use kernel_ext::{
    sched::task::{
        barrier_on_all_cpus,
        sleep_killable_one_tick, //
    },
    sync::read_once::ReadOnce, //
};
use kvm_glue::Kicker;
use pvirq_protocol::{
    Descriptor,
    HostState,
    Posted,
    Vector,
    Vectors, //
};

use super::moderation::Moderation;
use crate::stats::counter::Counter;

/// A vCPU that can be interrupted. It lives as long as its senders, which may be longer than its file.
#[pin_data]
pub(crate) struct KickTarget {
    /// The vCPU's ID, which is the index of its descriptor, too.
    pub(crate) id: u32,
    /// Whether the vCPU's thread has to announce itself and read pending bits, see [`Vcpu`](crate::vcpu::Vcpu).
    tracked: Atomic<bool>,
    /// Whether the vCPU's thread is in `KVM_RUN`, or about to be, without reading pending bits.
    untracked: Atomic<bool>,
    /// Whether all CPUs have had a barrier since `tracked` was set.
    settled: Atomic<bool>,
    /// The vectors that the vCPU has been kicked for. The state always says that the vCPU will poll.
    kicks: Descriptor,
    moderation: Moderation,
    /// Calls of `KVM_RUN`. Exact if the VMM's threads call it one at a time.
    pub(crate) runs: Counter,
    #[pin]
    pub(crate) kicker: Kicker,
    /// Links in the list of [`Vm`](crate::vm::Vm).
    #[pin]
    links: ListLinks,
    /// Links in the list of [`Totals`](crate::stats::totals::Totals).
    #[pin]
    live_links: ListLinks<1>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for KickTarget { untracked; }
}
impl_list_arc_safe! {
    impl ListArcSafe<1> for KickTarget { untracked; }
}
impl_list_item! {
    impl ListItem<0> for KickTarget { using ListLinks { self.links }; }
}
impl_list_item! {
    impl ListItem<1> for KickTarget { using ListLinks { self.live_links }; }
}

impl KickTarget {
    /// Creates the target for the vCPU `id`. After a burst its kicks pause for up to `moderation_ns`.
    pub(crate) fn new(id: u32, moderation_ns: u32) -> impl PinInit<Self> {
        let kicks = Descriptor::new();
        kicks.set_host_state(HostState::Outside);

        pin_init!(Self {
            id,
            tracked: Atomic::new(false),
            untracked: Atomic::new(false),
            settled: Atomic::new(false),
            kicks,
            moderation: Moderation::new(moderation_ns),
            runs: Counter::new(),
            kicker <- Kicker::new(),
            links <- ListLinks::new(),
            live_links <- ListLinks::new(),
        })
    }

    /// Returns whether the vCPU's thread has to read pending bits.
    #[inline]
    pub(crate) fn is_tracked(&self) -> bool {
        self.tracked.read_once()
    }

    /// Makes the vCPU tracked for good. Its own thread calls this, others [`KickTarget::track`].
    pub(crate) fn set_tracked(&self) {
        self.tracked.write_once(true);
    }

    /// Makes the vCPU tracked for good, and waits until its thread reads pending bits. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` if the current task is being killed.
    pub(crate) fn track(&self) -> Result {
        // Each of several callers, until one barrier is over: `tracked` alone does not say that `untracked` can be believed.
        if !self.settled.load(Acquire) {
            self.set_tracked();
            // Pairs with `begin_untracked`, which has no barrier between its write and its read.
            barrier_on_all_cpus();
            self.settled.store(true, Release);
        }
        // The thread may not have told KVM yet which it is, so one kick may miss it.
        while self.untracked.read_once() {
            self.kicker.kick_untracked();
            sleep_killable_one_tick()?;
        }
        Ok(())
    }

    /// Begins a run of the vCPU without reading pending bits, if it is untracked. Returns whether it is.
    #[inline]
    pub(crate) fn begin_untracked(&self) -> bool {
        self.untracked.write_once(true);
        let untracked = !self.is_tracked();

        if !untracked {
            self.end_untracked();
        }
        untracked
    }

    /// Ends a run that [`KickTarget::begin_untracked`] has begun.
    #[inline]
    pub(crate) fn end_untracked(&self) {
        self.untracked.write_once(false);
    }

    /// Makes a vector pending and kicks the vCPU, at once or after the pause. If the vector was pending already, the
    /// sender that set it kicks.
    pub(crate) fn kick(&self, vector: Vector) -> Posted {
        let posted = self.kicks.post(vector);
        let wait = self.moderation.signal();

        if posted == Posted::Coalesced {
            return posted;
        }
        match wait {
            None => self.kicker.kick(),
            Some(time_ns) => self.kicker.kick_at(time_ns),
        }
        Posted::Kick
    }

    /// Makes vectors pending, none of them reserved, and kicks the vCPU at once.
    pub(crate) fn kick_all(&self, vectors: Vectors) {
        for vector in vectors {
            // Whether or not it was pending, the kick below covers it.
            let _ = self.kicks.post(vector);
        }
        self.kicker.kick();
    }

    /// Returns the vectors that the vCPU has been kicked for and has not taken yet.
    pub(crate) fn kicks(&self) -> Vectors {
        self.kicks.pending()
    }

    /// Returns whether vectors of kicks are pending. Only the thread that runs the vCPU may call this, after a full
    /// barrier.
    #[inline]
    pub(crate) fn has_kicks(&self) -> bool {
        self.kicks.has_pending()
    }

    /// Takes the vectors that the vCPU has been kicked for.
    pub(crate) fn take_kicks(&self) -> Vectors {
        self.moderation.take();
        self.kicks.drain()
    }
}
