// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sender's side.

use crate::{
    abi::{
        descriptor::Descriptor,
        irq::Vector,
        state::HostState, //
    },
    atomic::full_barrier_after_rmw, //
};

/// The outcome of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a kick that is not sent is a lost interrupt"]
pub enum Posted {
    /// The vector was pending already, and the target will poll, or has taken it.
    Coalesced,
    /// The target will poll, or has taken the vector.
    Elided,
    /// The target will not poll: the caller must send the interrupt natively.
    Kick,
}

/// How a posted vector is found without a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pickup {
    /// By the guest, which polls.
    Guest,
    /// By the host, which has the vCPU in this state.
    Host(HostState),
}

/// The number of a sender's posts by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Posts that were [`Posted::Coalesced`].
    pub coalesced: u64,
    /// Posts that were [`Posted::Elided`].
    pub elided: u64,
    /// Posts that were [`Posted::Kick`].
    pub kicked: u64,
}

impl Tally {
    /// Counts one post.
    pub fn add(&mut self, posted: Posted) {
        match posted {
            Posted::Coalesced => self.coalesced += 1,
            Posted::Elided => self.elided += 1,
            Posted::Kick => self.kicked += 1,
        }
    }

    /// Returns the number of all posts.
    pub fn posts(&self) -> u64 {
        self.coalesced + self.elided + self.kicked
    }
}

/// The state of a post before a possible kick.
enum Tried {
    /// The target will not poll, and nothing was written.
    NoPickup,
    /// The bit is set, and the target will poll. The flag says whether the bit was set before.
    Found(Pickup, bool),
    /// The bit is set, but the target will no longer poll. The flag says whether the bit was set before.
    TooLate(bool),
}

impl Descriptor {
    /// Posts an interrupt to the descriptor's vCPU. The handler may run once more than there are posts.
    ///
    /// If the vCPU will not poll, this is two loads and [`Posted::Kick`]: nothing is written to the target's lines.
    ///
    /// Each sender finishes for itself: none relies on what another has yet to do, so a sender that stops for ever between
    /// two of its steps delays no interrupt but its own. In return, if the owner leaves its state while the bit is set, the
    /// bit stays set when the vCPU is kicked, and the handler may run again at the owner's next drain. Handlers of
    /// interprocessor interrupts and of message-signalled interrupts allow for that; for others there is
    /// [`post_once`](Self::post_once).
    ///
    /// What the caller wrote before is visible to the handler that runs for this post; in the case of [`Posted::Kick`], if
    /// the native interrupt ensures that.
    #[inline]
    pub fn post(&self, vector: Vector) -> Posted {
        self.post_and_tell(vector, |_| {})
    }

    /// [Posts](Self::post), and if the interrupt is [`Posted::Elided`], calls `tell` with its pickup.
    #[inline]
    pub fn post_and_tell(&self, vector: Vector, tell: impl FnOnce(Pickup)) -> Posted {
        match self.try_post(vector) {
            Tried::Found(pickup, false) => {
                tell(pickup);
                Posted::Elided
            }
            Tried::Found(_, true) => Posted::Coalesced,
            Tried::NoPickup | Tried::TooLate(_) => Posted::Kick,
        }
    }

    /// Posts an interrupt whose handler must not run more often than there are posts.
    ///
    /// A bit that the owner did not take is taken back before the kick. It may be another sender's by then: if this sender
    /// stops for ever in between, that sender's interrupt is lost. So this is for senders that do not stop, or that are
    /// alone with their vector.
    #[inline]
    pub fn post_once(&self, vector: Vector) -> Posted {
        let was_set = match self.try_post(vector) {
            Tried::NoPickup => return Posted::Kick,
            Tried::TooLate(_) if self.retract(vector) => return Posted::Kick,
            Tried::Found(_, was_set) | Tried::TooLate(was_set) => was_set,
        };

        match was_set {
            true => Posted::Coalesced,
            false => Posted::Elided,
        }
    }

    /// Returns how a pending bit will be found without a kick, or `None` if the vCPU will not poll.
    #[inline]
    pub(crate) fn pickup(&self) -> Option<Pickup> {
        if self.guest_state().will_poll() {
            return Some(Pickup::Guest);
        }
        Some(self.host_state())
            .filter(|state| state.will_poll())
            .map(Pickup::Host)
    }

    #[inline]
    fn try_post(&self, vector: Vector) -> Tried {
        if self.pickup().is_none() {
            return Tried::NoPickup;
        }
        let was_set = self.set(vector);
        // Pairs with the barrier of the owner, which writes its state and then reads the bits: at least one of the two
        // sees what the other wrote.
        full_barrier_after_rmw();
        match self.pickup() {
            Some(pickup) => Tried::Found(pickup, was_set),
            None => Tried::TooLate(was_set),
        }
    }

    /// Sets a vector's pending bit. Returns whether it was set already.
    #[inline]
    pub(crate) fn set(&self, vector: Vector) -> bool {
        self.pending.words[vector.word()].test_and_set(vector.bit())
    }

    /// Takes a vector's pending bit back. Returns whether it was still set.
    ///
    /// If it was, it may be another sender's by now, for which the caller then kicks: what that sender wrote before it
    /// posted is visible to the caller. If it was not, the owner or another sender has taken it, and delivers.
    #[inline]
    pub(crate) fn retract(&self, vector: Vector) -> bool {
        self.pending.words[vector.word()].test_and_clear(vector.bit())
    }
}

/// Posts an interrupt to several vCPUs by `post`, and calls `kick` with the index of each that needs a kick.
///
/// The caller sends one native multicast to those. This posts to one target after the other, so the proof for one post
/// holds for multicasts. Setting all bits first, with one barrier, would save nothing where the read-modify-write is the
/// barrier, and would leave each bit set for longer before the states are read.
#[inline]
pub fn post_all<'a, I>(
    targets: impl IntoIterator<Item = (I, &'a Descriptor)>,
    post: impl Fn(&Descriptor) -> Posted,
    mut kick: impl FnMut(I),
) -> Tally {
    let mut tally = Tally::default();

    for (index, target) in targets {
        let posted = post(target);

        tally.add(posted);
        if posted == Posted::Kick {
            kick(index);
        }
    }
    tally
}
