// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The owner's side: the vCPU itself in the guest, and the thread that runs it in the host.
//!
//! They are never both at work, but for a host that [closes](Descriptor::close) a descriptor.
//! Drains may overlap all the same: each vector goes to one of them.

use crate::{
    abi::{
        descriptor::Descriptor,
        irq::Vectors,
        state::{
            GuestState,
            HostState,
            IdleEnd, //
        }, //
    },
    atomic::full_barrier, //
};

/// The guest, on the vCPU that the descriptor is of.
impl Descriptor {
    /// Says that the vCPU polls from now on. Until it [stops](Self::leave_polling), nobody kicks it
    /// for what it can see in [`has_pending`](Self::has_pending).
    #[inline]
    pub fn enter_polling(&self) {
        self.guest.state.store(GuestState::Polling.word());
    }

    /// Says that the vCPU does not poll any more, and takes what is pending.
    ///
    /// If something has ended the polling, the caller [drains](Self::drain) and handles that first,
    /// while senders are still told that somebody looks. A sender that has set its bit and not
    /// looked yet would otherwise take it back, and kick a vCPU that has just come for it.
    ///
    /// Interrupts must be off from before this call until the caller has handled the vectors. A
    /// halt may only follow if there were none.
    #[inline]
    pub fn leave_polling(&self) -> Vectors {
        self.guest.state.store(GuestState::Running.word());
        // Pairs with the barrier in `post`.
        full_barrier();
        self.drain()
    }

    /// Polls by `poll`, which returns what has ended it, of which `found` says whether it may be a post. Returns
    /// that, and what was pending, for the caller to handle in this order.
    ///
    /// Interrupts must be off from when `poll` returns until the caller has handled the vectors.
    #[inline]
    pub fn poll<T>(
        &self,
        poll: impl FnOnce() -> T,
        found: impl FnOnce(&T) -> bool,
    ) -> (T, [Vectors; 2]) {
        self.enter_polling();
        let end = poll();
        // Senders are told that the vCPU looks for as long as what is there has not been taken.
        let early = match found(&end) {
            true => self.drain(),
            false => Vectors::default(),
        };
        let late = self.leave_polling();

        (end, [early, late])
    }
}

/// The host, in the thread that runs the vCPU.
impl Descriptor {
    /// Says where the vCPU is from now on, if it was not in a state in which it will look.
    ///
    /// To leave such a state takes [`leave`](Self::leave) or [`resume`](Self::resume).
    #[inline]
    pub fn set_host_state(&self, state: HostState) {
        self.host.state.store(state.word());
    }

    /// Goes to a state in which the vCPU will not look, and takes what is pending.
    ///
    /// The caller injects the vectors before the vCPU runs or sleeps.
    #[inline]
    pub fn leave(&self, state: HostState) -> Vectors {
        self.leave_state(state);
        self.drain()
    }

    /// Goes to a state in which the vCPU will not look, and says whether anything is pending.
    ///
    /// For contexts that cannot inject, such as the scheduler's: if this returns true, the caller
    /// makes sure that the vCPU does not go on before a [`drain`](Self::drain).
    #[inline]
    #[must_use = "what is pending has to be drained"]
    pub fn resume(&self, state: HostState) -> bool {
        self.leave_state(state);
        self.has_pending()
    }

    /// Stops using the descriptor, and takes what is pending. Any thread may call this.
    ///
    /// Nothing that is left there promises anything of the host: it says that the vCPU will not look, that nobody
    /// is to poll, and that an idle call that no host answers is over. The caller makes sure that the vCPU's
    /// thread writes no state after that. Posts that come later are kicks. A guest that polls its own descriptor
    /// goes on to look there.
    ///
    /// A guest calls this for its own descriptors when there is no host any more that would.
    pub fn close(&self) -> Vectors {
        self.set_poll_windows(0, 0);
        self.set_idle_end(IdleEnd::Expired);
        self.leave(HostState::Running)
    }

    #[inline]
    fn leave_state(&self, state: HostState) {
        self.set_host_state(state);
        // Pairs with the barrier in `post`.
        full_barrier();
    }
}

/// Either of them.
impl Descriptor {
    /// Whether any vector is pending. Four loads.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.pending.words.iter().any(|word| word.load() != 0)
    }

    /// Takes what is pending.
    ///
    /// This never waits for a sender, and makes at most one exchange per word.
    #[inline]
    pub fn drain(&self) -> Vectors {
        Vectors::from_words(core::array::from_fn(|index| {
            let word = &self.pending.words[index];

            // The line stays shared while there is nothing to take.
            match word.load() {
                0 => 0,
                _ => word.swap(0),
            }
        }))
    }
}
