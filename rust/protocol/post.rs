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

/// What became of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a kick that nobody sends is an interrupt that is lost"]
pub enum Posted {
    /// The vector was pending already, and the target will look by itself, or has found it.
    Coalesced,
    /// The target will look by itself, or has found the vector.
    Elided,
    /// The target will not look, and the caller has to send the interrupt the platform's way.
    Kick,
}

/// Who finds what was posted, without being kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pickup {
    /// The guest, which polls.
    Guest,
    /// The host, which has the vCPU in this state.
    Host(HostState),
}

/// How many of a sender's posts ended in which way.
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

    /// All of them.
    pub fn posts(&self) -> u64 {
        self.coalesced + self.elided + self.kicked
    }
}

/// How far a post has come.
enum Tried {
    /// The target does not look, and nothing was written.
    Nobody,
    /// The bit is set, the target looks, and the bit was set before or not.
    Found(Pickup, bool),
    /// The bit is set, which it was before or not, but the target does not look any more.
    TooLate(bool),
}

impl Descriptor {
    /// Posts an interrupt to the vCPU that this descriptor is of, whose handler may run once more than needed.
    ///
    /// To a vCPU that will not look this is two loads and [`Posted::Kick`]: nothing is written to the
    /// target's lines.
    ///
    /// Each sender finishes for itself: none relies on what another is yet to do, so that a sender which
    /// stops for ever between two of its steps delays no interrupt but its own. In return, the bit of a post
    /// that was overtaken by a change of the state stays set when it is kicked: the handler may run again when
    /// the owner next looks. Handlers of interprocessor interrupts and of message-signalled interrupts allow
    /// for that; for others there is [`post_once`](Self::post_once).
    ///
    /// Whatever the caller wrote before is visible to the handler that runs for this post, however
    /// it comes to run; in the case of [`Posted::Kick`], if the native way has that property.
    #[inline]
    pub fn post(&self, vector: Vector) -> Posted {
        self.post_and_tell(vector, |_| {})
    }

    /// [Posts](Self::post), and if the interrupt is [`Posted::Elided`], tells by whom it will be
    /// found.
    #[inline]
    pub fn post_and_tell(&self, vector: Vector, tell: impl FnOnce(Pickup)) -> Posted {
        match self.try_post(vector) {
            Tried::Found(pickup, false) => {
                tell(pickup);
                Posted::Elided
            }
            Tried::Found(_, true) => Posted::Coalesced,
            Tried::Nobody | Tried::TooLate(_) => Posted::Kick,
        }
    }

    /// Posts an interrupt whose handler must not run more often than there are posts.
    ///
    /// A bit that the owner did not take is taken back before the kick. It may be another sender's by then: if
    /// this sender stops for ever between the two, that sender's interrupt is lost with it. So it is for
    /// senders that do not, or that are alone with their vector.
    #[inline]
    pub fn post_once(&self, vector: Vector) -> Posted {
        let was_set = match self.try_post(vector) {
            Tried::Nobody => return Posted::Kick,
            Tried::TooLate(_) if self.retract(vector) => return Posted::Kick,
            Tried::Found(_, was_set) | Tried::TooLate(was_set) => was_set,
        };

        match was_set {
            true => Posted::Coalesced,
            false => Posted::Elided,
        }
    }

    /// What finds a pending bit of the vCPU without a kick; nothing if it will not poll.
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
            return Tried::Nobody;
        }
        let was_set = self.set(vector);
        // Pairs with the barrier of the owner, who writes its state and reads the bits: one of us
        // sees what the other wrote.
        full_barrier_after_rmw();
        match self.pickup() {
            Some(pickup) => Tried::Found(pickup, was_set),
            None => Tried::TooLate(was_set),
        }
    }

    /// Sets a vector's pending bit. Says whether it was set already.
    #[inline]
    pub(crate) fn set(&self, vector: Vector) -> bool {
        self.pending.words[vector.word()].test_and_set(vector.bit())
    }

    /// Takes a vector's pending bit back. Says whether it was still there.
    ///
    /// If it was, it may be another sender's by now, and its kick is this one's to send: what that
    /// sender wrote before it posted is visible to the caller. If it was not, the owner or another
    /// sender took it, and delivers.
    #[inline]
    pub(crate) fn retract(&self, vector: Vector) -> bool {
        self.pending.words[vector.word()].test_and_clear(vector.bit())
    }
}

/// Posts an interrupt to several vCPUs by `post`, and calls `kick` with the index of each that needs it.
///
/// The caller sends one native multicast to those. The targets are taken one after the other, so nothing has to be
/// shown for a multicast beyond what holds for one post. To set all bits first and to share one barrier would save
/// nothing where a read-modify-write is that barrier, as on x86, and would leave each bit set and unannounced for
/// longer.
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
