// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Interrupts for an idle vCPU: their sources, when they are due, and which have arrived.
//!
//! vCPU 1 idles, one period after the other. At the beginning of each it draws one or several sources, and when each of
//! them interrupts it: vCPU 0 by an IPI, its own local APIC by the timer, or the VMM by an eventfd, which vCPU 0 has it
//! signal. The period's number is the sequence number of all interrupts in it, and the period ends when the handlers have
//! acknowledged all of them. Nothing else wakes the vCPU. So if an interrupt does not, the period does not end: vCPU 0's
//! patience ends, and it counts.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use crate::layout::ARRIVAL_VECTORS;

/// What interrupts an idle vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// Another vCPU.
    Ipi,
    /// The timer of its own local APIC.
    Timer,
    /// The VMM, by an eventfd that KVM's irqfd turns into a message.
    Event,
}

impl Source {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them.
    pub const ALL: [Source; 3] = [Source::Ipi, Source::Timer, Source::Event];

    /// Its vector.
    pub const fn vector(self) -> u8 {
        ARRIVAL_VECTORS + self as u8
    }

    /// Whose vector it is.
    pub fn of_vector(vector: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|source| source.vector() == vector)
    }

    /// Its bit in [`Arrivals::sources`].
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What a source and a handler note of the interrupts from one source.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Arrival {
    /// Written by the source: the sequence number of the last one that it has sent.
    pub sent: AtomicU64,
    _source: [u64; 7],
    /// Written by the handler: the last sequence number that it has seen.
    pub acknowledged: AtomicU64,
    /// Written by the handler: when that was, in TSC cycles.
    pub at: AtomicU64,
    /// Written by the handler: how often there was nothing new to acknowledge.
    pub duplicates: AtomicU64,
    _handler: [u64; 5],
}

/// Where a vCPU's idle periods can end: in the guest's window, in the host's, in a halt.
pub const STEPS: usize = 3;

/// All that concerns the idle vCPU.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Arrivals {
    /// For each [`Source`].
    pub of: [Arrival; Source::COUNT],
    /// Written by the VMM: the [bits](Source::bit) of the sources to draw from.
    pub sources: AtomicU32,
    /// Written by the VMM: how often the longest delay may be halved before a delay is drawn up to it, at random: short
    /// ones are as likely then as long ones.
    pub halvings: AtomicU32,
    /// Written by the VMM: cycles that are added to each delay.
    pub least: AtomicU64,
    /// Written by the VMM: whether the two vCPUs share a CPU, where neither may keep the other waiting.
    pub together: AtomicU32,
    _padding: u32,
    _vmm: [u64; 5],
    /// Written by the idle vCPU: the number of the period, or [`END`](Self::END).
    pub period: AtomicU64,
    /// Written by the idle vCPU, before the period: after how many cycles each source interrupts it, or
    /// [`NEVER`](Self::NEVER).
    pub due: [AtomicU64; Source::COUNT],
    /// Written by the idle vCPU: how many interrupts from each source have come in each step.
    pub ended: [[AtomicU64; STEPS]; Source::COUNT],
}

impl Arrivals {
    /// There are no more periods.
    pub const END: u64 = u64::MAX;
    /// Not in this period.
    pub const NEVER: u64 = u64::MAX;

    /// Says what the VMM wants, for the jobs to come.
    pub fn set_up(&self, sources: &[Source], halvings: u32, least: u64, together: bool) {
        let bits = sources.iter().map(|source| source.bit()).sum();

        self.sources.store(bits, SeqCst);
        self.halvings.store(halvings, SeqCst);
        self.least.store(least, SeqCst);
        self.together.store(together.into(), SeqCst);
    }

    /// The last sequence number that has been acknowledged of each source's.
    pub fn acknowledged(&self) -> [u64; Source::COUNT] {
        Source::ALL.map(|source| self.of[source as usize].acknowledged.load(SeqCst))
    }

    /// How many interrupts of a period have not been acknowledged.
    pub fn missing(&self, period: u64) -> u64 {
        let due = |source: &Source| self.due[*source as usize].load(SeqCst) != Self::NEVER;
        let sources = Source::ALL.into_iter().filter(due);

        sources
            .filter(|&source| self.of[source as usize].acknowledged.load(SeqCst) != period)
            .count() as u64
    }

    /// Interrupts that came again.
    pub fn duplicates(&self) -> u64 {
        let arrivals = self.of.iter();
        arrivals
            .map(|arrival| arrival.duplicates.load(SeqCst))
            .sum()
    }

    /// Clears all but what the VMM has [set up](Self::set_up). No vCPU may be at work.
    pub fn clear(&self) {
        for arrival in &self.of {
            let all = [&arrival.sent, &arrival.acknowledged, &arrival.at];
            all.into_iter().for_each(|number| number.store(0, Relaxed));
            arrival.duplicates.store(0, Relaxed);
        }
        self.period.store(0, Relaxed);
        self.due
            .iter()
            .for_each(|due| due.store(Self::NEVER, Relaxed));
        let ended = self.ended.iter().flatten();
        ended.for_each(|count| count.store(0, Relaxed));
    }
}

// The handler's assembly finds the elements by this alone.
const _: () = assert!(core::mem::offset_of!(Arrivals, of) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_vectors() {
        for source in Source::ALL {
            assert_eq!(Source::of_vector(source.vector()), Some(source));
        }
        assert_eq!(Source::of_vector(ARRIVAL_VECTORS + 3), None);
        assert_eq!(Source::of_vector(crate::IPI_VECTOR), None);
    }

    #[test]
    fn what_is_due_and_not_acknowledged_is_missing() {
        let arrivals = Arrivals::default();
        arrivals.clear();
        arrivals.set_up(&[Source::Timer, Source::Event], 3, 5, true);
        assert_eq!(arrivals.sources.load(SeqCst), 6);
        assert_eq!(arrivals.missing(4), 0);
        arrivals.due[Source::Ipi as usize].store(0, SeqCst);
        arrivals.due[Source::Event as usize].store(7, SeqCst);
        assert_eq!(arrivals.missing(4), 2);
        arrivals.of[Source::Event as usize]
            .acknowledged
            .store(4, SeqCst);
        assert_eq!(arrivals.missing(4), 1);
        assert_eq!(arrivals.acknowledged(), [0, 0, 4]);
        arrivals.clear();
        assert_eq!((arrivals.missing(4), arrivals.least.load(SeqCst)), (0, 5));
    }
}
