// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sender's side.

use crate::{
    atomic::full_barrier_after_rmw,
    descriptor::Descriptor,
    state::HostState,
    vector::Vector, //
};

/// What became of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a kick that nobody sends is an interrupt that is lost"]
pub enum Posted {
    /// The vector was pending already. Whoever set it takes care of this one, too.
    Coalesced,
    /// The target will look by itself, or another sender kicks it for this vector.
    Elided,
    /// Nothing is pending any more, and the caller has to send the interrupt the platform's way.
    Kick,
}

/// Who finds what was posted, without being kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looker {
    /// The guest, which polls.
    Guest,
    /// The host, which has the vCPU in this state.
    Host(HostState),
    /// Somebody has found it already: the vCPU, which did not look as its states said, or another
    /// sender, who kicks it.
    Another,
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

impl Descriptor {
    /// Posts an interrupt to the vCPU that this descriptor is of.
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
    pub fn post_and_tell(&self, vector: Vector, tell: impl FnOnce(Looker)) -> Posted {
        if self.set(vector) {
            return Posted::Coalesced;
        }
        // Pairs with the barrier of the owner, who writes its state and reads the bits: one of us
        // sees what the other wrote.
        full_barrier_after_rmw();
        let looker = match self.looker() {
            None if self.retract(vector) => return Posted::Kick,
            None => Looker::Another,
            Some(looker) => looker,
        };

        tell(looker);
        Posted::Elided
    }

    /// Sets a vector's pending bit. Says whether it was set already.
    #[inline]
    pub(crate) fn set(&self, vector: Vector) -> bool {
        let bit = vector.bit();

        self.pending.words[vector.word()].fetch_or(bit) & bit != 0
    }

    /// Takes a vector's pending bit back. Says whether it was still there.
    ///
    /// If it was, it may be another sender's by now, and its kick is this one's to send: what that
    /// sender wrote before it posted is visible to the caller. If it was not, the owner or another
    /// sender took it, and delivers.
    #[inline]
    pub(crate) fn retract(&self, vector: Vector) -> bool {
        let bit = vector.bit();

        self.pending.words[vector.word()].fetch_and(!bit) & bit != 0
    }
}

/// Posts an interrupt to several vCPUs, and calls `kick` with the index of each that needs it.
///
/// The caller sends one native multicast to those. The targets are taken one after the other: each
/// is a [`Descriptor::post`] of its own, so nothing has to be shown for a multicast beyond that. To
/// set all bits first and to share one barrier would save nothing where a read-modify-write is
/// that barrier, as on x86, and would leave each bit set and unannounced for longer.
#[inline]
pub fn post_all<'a, I>(
    vector: Vector,
    targets: impl IntoIterator<Item = (I, &'a Descriptor)>,
    mut kick: impl FnMut(I),
) -> Tally {
    let mut tally = Tally::default();

    for (index, target) in targets {
        let posted = target.post(vector);

        tally.add(posted);
        if posted == Posted::Kick {
            kick(index);
        }
    }
    tally
}
