// SPDX-License-Identifier: GPL-2.0

//! vCPUs as those see them who interrupt them from outside the guest.
//!
//! A post that no descriptor takes is a kick: the vector becomes pending here, in memory of the
//! host's own, and the thread that runs the vCPU is forced out of `KVM_RUN`, at once or [after a
//! pause](crate::vm::moderation). It injects what is pending before it goes on. If nobody runs the vCPU, the
//! next `KVM_RUN` begins with that.
//!
//! # Concurrency
//!
//! Whoever kicks sets a bit and then looks for the thread; a thread says that it is there and then
//! looks for bits. The barriers are those of the posting protocol and of [`Kicker`]. Any context but
//! NMIs.
//!
//! Threads whose vCPU nobody has ever posted to do not say so. They are blind: [`KickTarget::blind`] is
//! set, and the barrier between that and reading [`KickTarget::looks`] is one on all CPUs, of whoever sets
//! that for the first time. It then gets the thread out of `KVM_RUN`, whichever it is.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        ListLinks, //
    },
    prelude::*,
    sync::atomic::Atomic, //
};
use kernel_ext::{
    sched::task::{
        barrier_on_all_cpus,
        sleep_killable_one_tick, //
    }, //
    sync::read_once::ReadOnce,
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

/// A vCPU that can be interrupted. It stays as long as anybody wants to, even without its file.
#[pin_data]
pub(crate) struct KickTarget {
    /// The vCPU's number, which is its APIC ID, too.
    pub(crate) id: u32,
    /// Whether the vCPU's thread has to look for posts, see [`Vcpu`](crate::vcpu::Vcpu).
    tracked: Atomic<bool>,
    /// Whether the vCPU's thread is in `KVM_RUN`, or about to be, and does not look.
    untracked: Atomic<bool>,
    /// What it has been kicked for. For its senders it always events.
    kicks: Descriptor,
    moderation: Moderation,
    /// How many times `KVM_RUN` has been called; a VMM whose threads take turns at it is counted right.
    pub(crate) runs: Counter,
    #[pin]
    pub(crate) kicker: Kicker,
    /// For the list in [`Vm`](crate::vm::Vm).
    #[pin]
    links: ListLinks,
    /// For the list in [`Totals`](crate::stats::totals::Totals).
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
    /// Makes one of a vCPU that is left alone after a burst, for so long at most.
    pub(crate) fn new(id: u32, moderation_ns: u32) -> impl PinInit<Self> {
        let kicks = Descriptor::new();
        kicks.set_host_state(HostState::Outside);

        pin_init!(Self {
            id,
            tracked: Atomic::new(false),
            untracked: Atomic::new(false),
            kicks,
            moderation: Moderation::new(moderation_ns),
            runs: Counter::new(),
            kicker <- Kicker::new(),
            links <- ListLinks::new(),
            live_links <- ListLinks::new(),
        })
    }

    /// Returns whether the vCPU's thread has to look for posts.
    #[inline]
    pub(crate) fn is_tracked(&self) -> bool {
        self.tracked.read_once()
    }

    /// Has the vCPU's thread, the current one, look for posts from now on, for ever.
    pub(crate) fn set_tracked(&self) {
        self.tracked.write_once(true);
    }

    /// Has the vCPU's thread look for posts from now on, for ever. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` if the current task is to die.
    pub(crate) fn track(&self) -> Result {
        if !self.is_tracked() {
            self.set_tracked();
            barrier_on_all_cpus();
        }
        // The thread may have yet to tell KVM which it is.
        while self.untracked.read_once() {
            self.kicker.kick_untracked();
            sleep_killable_one_tick()?;
        }
        Ok(())
    }

    /// Says that the vCPU's thread is about to run it and does not look; returns whether it need not.
    #[inline]
    pub(crate) fn begin_untracked(&self) -> bool {
        self.untracked.write_once(true);
        let blind = !self.is_tracked();

        if !blind {
            self.end_untracked();
        }
        blind
    }

    /// Says that the vCPU's thread does not run it any more.
    #[inline]
    pub(crate) fn end_untracked(&self) {
        self.untracked.write_once(false);
    }

    /// Makes a vector pending, and makes the vCPU look, unless it was pending already: whoever made it so
    /// does that.
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

    /// Makes vectors pending, none of them reserved, and makes the vCPU look at once.
    pub(crate) fn kick_all(&self, vectors: Vectors) {
        for vector in vectors {
            // However often it is pending, it is injected once.
            let _ = self.kicks.post(vector);
        }
        self.kicker.kick();
    }

    /// Returns what the vCPU has been kicked for and has not taken yet.
    pub(crate) fn kicks(&self) -> Vectors {
        self.kicks.pending()
    }

    /// Returns whether there have been kicks. To be asked by the thread that runs the vCPU, after a
    /// full barrier.
    #[inline]
    pub(crate) fn has_kicks(&self) -> bool {
        self.kicks.has_pending()
    }

    /// Takes what the vCPU has been kicked for.
    pub(crate) fn take_kicks(&self) -> Vectors {
        self.moderation.take();
        self.kicks.drain()
    }
}
