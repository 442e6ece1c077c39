// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The owner's side: the guest on the descriptor's vCPU, and the host's thread that runs it.
//!
//! The two never work at the same time, unless the host [closes](Descriptor::close) the descriptor. Even then drains may
//! overlap: each vector goes to one of them.

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

/// For the guest, on the descriptor's vCPU.
impl Descriptor {
    /// Enters the state in which the guest polls. Until it [leaves](Self::leave_polling) that state, senders do not kick the
    /// vCPU, and the guest checks [`has_pending`](Self::has_pending).
    #[inline]
    pub fn enter_polling(&self) {
        self.guest.state.store(GuestState::Polling.word());
    }

    /// Leaves the state in which the guest polls, and takes the pending vectors.
    ///
    /// If a post may have ended the polling, the caller [drains](Self::drain) first, while the state still says that the
    /// vCPU polls. Otherwise a sender that has set its bit and not read the state again would kick a vCPU that is about to
    /// take the bit.
    ///
    /// Interrupts must be off from before this call until the caller has handled the vectors. The vCPU may only halt if
    /// there were none.
    #[inline]
    pub fn leave_polling(&self) -> Vectors {
        self.guest.state.store(GuestState::Running.word());
        // Pairs with the barrier in `post`.
        full_barrier();
        self.drain()
    }

    /// Polls by `poll`, and returns its result and the pending vectors, which the caller handles in this order. `found` says
    /// whether the result may be due to a post.
    ///
    /// Interrupts must be off from the return of `poll` until the caller has handled the vectors.
    #[inline]
    pub fn poll<T>(
        &self,
        poll: impl FnOnce() -> T,
        found: impl FnOnce(&T) -> bool,
    ) -> (T, [Vectors; 2]) {
        self.enter_polling();
        let end = poll();
        // While the state still says that the vCPU polls, see `leave_polling`.
        let early = match found(&end) {
            true => self.drain(),
            false => Vectors::default(),
        };
        let late = self.leave_polling();

        (end, [early, late])
    }
}

/// For the host, in the thread that runs the vCPU.
impl Descriptor {
    /// Sets the state of a vCPU that was not in a state that will poll.
    ///
    /// [`leave`](Self::leave) and [`resume`](Self::resume) are for leaving such a state.
    #[inline]
    pub fn set_host_state(&self, state: HostState) {
        self.host.state.store(state.word());
    }

    /// Enters a state that will not poll, and takes the pending vectors.
    ///
    /// The caller injects them before the vCPU runs or sleeps.
    #[inline]
    pub fn leave(&self, state: HostState) -> Vectors {
        self.leave_state(state);
        self.drain()
    }

    /// Enters a state that will not poll, and returns whether any vector is pending.
    ///
    /// For contexts that cannot inject, such as the scheduler's: if this returns true, the caller ensures that the vCPU does
    /// not go on before a [`drain`](Self::drain).
    #[inline]
    #[must_use = "pending vectors must be drained"]
    pub fn resume(&self, state: HostState) -> bool {
        self.leave_state(state);
        self.has_pending()
    }

    /// Closes the descriptor: the host promises nothing in it any more. Takes the pending vectors. In any thread.
    ///
    /// The host's state will not poll, the windows are 0, and an idle call that no host answers has expired. The caller
    /// ensures that the vCPU's thread writes no state after that. Later posts are kicks, unless the guest polls its own
    /// descriptor.
    ///
    /// A guest calls this for its own descriptors when its host is gone.
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

/// For both.
impl Descriptor {
    /// Returns whether any vector is pending. At most four loads.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.pending.words.iter().any(|word| word.load() != 0)
    }

    /// Takes the pending vectors, by at most one exchange per word. Never waits for a sender.
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
