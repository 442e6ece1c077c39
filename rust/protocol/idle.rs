// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The idle call, by which an idle guest makes its host poll for it.
//!
//! The guest first polls its own descriptor for [`guest_poll_ns`](Descriptor::guest_poll_ns). Then it leaves that state,
//! and if nothing was pending, it writes [`Command::Idle`](crate::registers::Command::Idle), with interrupts enabled just
//! before, as for a halt. When the write returns, [`idle_end`](Descriptor::idle_end) has the reason. Unless there is work,
//! the guest then halts, after the usual check with interrupts off.

use crate::abi::{
    descriptor::Descriptor,
    state::{
        HostState,
        IdleEnd,
        POLL_MAX_NS, //
    }, //
};

impl Descriptor {
    /// For the host: enters the state in which it polls for the vCPU.
    ///
    /// Until it [leaves](Self::leave) that state, senders do not kick the vCPU, and the host checks
    /// [`has_pending`](Self::has_pending).
    #[inline]
    pub fn enter_host_polling(&self) {
        self.set_host_state(HostState::Polling);
    }

    /// For the host: sets the reason why the idle call has ended, before it returns to the guest.
    #[inline]
    pub fn set_idle_end(&self, end: IdleEnd) {
        self.host.idle_end.store(end.number());
    }

    /// Returns the reason why the vCPU's last idle call has ended.
    #[inline]
    pub fn idle_end(&self) -> IdleEnd {
        IdleEnd::from_number(self.host.idle_end.load()).unwrap_or(IdleEnd::Expired)
    }

    /// For the host: sets the guest's poll window, and the host's.
    #[inline]
    pub fn set_poll_windows(&self, guest_ns: u32, host_ns: u32) {
        self.host.guest_poll_ns.store(guest_ns);
        self.host.host_poll_ns.store(host_ns);
    }

    /// Returns how long the guest polls before it makes the idle call or halts, in ns: [`POLL_MAX_NS`] at most. No host asks
    /// for more, but an image from which the guest was restored may hold any value, and the guest's own timers may wait for
    /// the end of the poll.
    #[inline]
    pub fn guest_poll_ns(&self) -> u32 {
        self.host.guest_poll_ns.load().min(POLL_MAX_NS)
    }

    /// Counts an idle period that has ended while the guest polled, for its host. Only for the descriptor's vCPU.
    #[inline]
    pub fn count_idle_hit(&self) {
        let hits = self.guest.idle_hits.load();
        self.guest.idle_hits.store(hits.wrapping_add(1));
    }

    /// Returns how many idle periods have ended while the guest polled, as counted by the guest, modulo 2^32.
    #[inline]
    pub fn idle_hits(&self) -> u32 {
        self.guest.idle_hits.load()
    }

    /// Returns how long the host will poll in the idle call, in ns.
    #[inline]
    pub fn host_poll_ns(&self) -> u32 {
        self.host.host_poll_ns.load()
    }
}
