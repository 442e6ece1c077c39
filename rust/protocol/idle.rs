// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The idle call: a guest that has nothing to do lets its host poll for it.
//!
//! The guest first polls its own descriptor for [`guest_poll_ns`](Descriptor::guest_poll_ns). Then
//! it stops saying that it polls, and if nothing was pending, writes
//! [`Command::Idle`](crate::registers::Command::Idle) with interrupts on, as if it was a HLT: on x86,
//! `sti; out`. When the write returns, [`idle_end`](Descriptor::idle_end) says why. Unless there is
//! something to do, the guest executes a HLT, after the look with interrupts off that goes before
//! every HLT.

use crate::abi::{
    descriptor::Descriptor,
    state::{
        HostState,
        IdleEnd,
        POLL_MAX_NS, //
    }, //
};

impl Descriptor {
    /// For the host: says that it polls on the vCPU's behalf from now on.
    ///
    /// Until it [leaves](Self::leave) that state, nobody kicks the vCPU for what the host can see in
    /// [`has_pending`](Self::has_pending).
    #[inline]
    pub fn enter_host_polling(&self) {
        self.set_host_state(HostState::Polling);
    }

    /// For the host: says why the idle call is over, before it returns to the guest.
    #[inline]
    pub fn set_idle_end(&self, end: IdleEnd) {
        self.host.idle_end.store(end.number());
    }

    /// What has ended the vCPU's last idle call.
    #[inline]
    pub fn idle_end(&self) -> IdleEnd {
        IdleEnd::from_number(self.host.idle_end.load()).unwrap_or(IdleEnd::Expired)
    }

    /// Tells the guest how long it is to poll, and how long the host will after that.
    #[inline]
    pub fn set_poll_windows(&self, guest_ns: u32, host_ns: u32) {
        self.host.guest_poll_ns.store(guest_ns);
        self.host.host_poll_ns.store(host_ns);
    }

    /// How long the guest is to poll before it makes the idle call or halts, in ns: [`POLL_MAX_NS`] at most. No host asks for
    /// more, but an image that the guest was restored from may hold anything, and the guest's own timers may wait for the end
    /// of the poll.
    #[inline]
    pub fn guest_poll_ns(&self) -> u32 {
        self.host.guest_poll_ns.load().min(POLL_MAX_NS)
    }

    /// Counts an idle period that has ended while the guest polled, for its host to know of. Only the
    /// vCPU that this descriptor is of may call this.
    #[inline]
    pub fn count_idle_hit(&self) {
        let hits = self.guest.idle_hits.load();
        self.guest.idle_hits.store(hits.wrapping_add(1));
    }

    /// How many idle periods have ended while the guest polled, as it says; more than 32 bits are cut off.
    #[inline]
    pub fn idle_hits(&self) -> u32 {
        self.guest.idle_hits.load()
    }

    /// How long the host is going to poll when it is called, in ns.
    #[inline]
    pub fn host_poll_ns(&self) -> u32 {
        self.host.host_poll_ns.load()
    }
}
