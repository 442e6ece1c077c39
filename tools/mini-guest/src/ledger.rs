// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ledger of interrupts that saves and restores of the VM must neither lose nor repeat.
//!
//! Each target has a number for each source: how many interrupts the source has sent, and how many the target's handler
//! has taken. A source has a vector of its own at each target, and sends there only if the last one has been handled, so
//! nothing merges: fewer handled than sent in the end are lost, more are repeated. Other vCPUs leave what they send in
//! the ledger, which is saved and restored with them. The VMM, which signals eventfds, keeps its own numbers, and leaves
//! them here when it signals no more.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// The largest number of vCPUs.
pub const LEDGER_VCPUS: usize = 4;
/// The eventfds for each vCPU.
pub const LEDGER_EVENTS: usize = 2;
/// The sources of each target's interrupts: vCPUs, and then eventfds.
pub const LEDGER_SOURCES: usize = LEDGER_VCPUS + LEDGER_EVENTS;
/// The first of the sources' vectors.
pub const LEDGER_VECTORS: u8 = 0xd0;

/// The source that has a vector, if it is one of theirs.
pub fn ledger_source(vector: u8) -> Option<usize> {
    let source = usize::from(vector.checked_sub(LEDGER_VECTORS)?);
    (source < LEDGER_SOURCES).then_some(source)
}

/// A number that one CPU writes, on a line of its own.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Number {
    /// The number.
    pub value: AtomicU64,
    _line: [u64; 7],
}

/// The interrupts of one target.
#[derive(Default)]
#[repr(C)]
pub struct Ledger {
    /// Written by the target's handlers, for each source.
    pub handled: [Number; LEDGER_SOURCES],
    /// Written by the sources before they send.
    pub sent: [Number; LEDGER_SOURCES],
}

/// All that concerns saves and restores.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Survival {
    /// One for each target.
    pub ledgers: [Ledger; LEDGER_VCPUS],
    /// Written by the guest: the epoch of its registration, 0 without one, or all ones without a host.
    pub epoch: AtomicU32,
    /// Set by the vCPU that heals the descriptors.
    pub healing: AtomicU32,
    /// Written by the VMM, while no vCPU runs: no more interrupts may be sent.
    pub over: AtomicU32,
    /// The number of vCPUs that send no more.
    pub finished: AtomicU32,
    /// How often the guest has found that its registration was gone.
    pub heals: AtomicU64,
    /// How many pending interrupts it has found in its descriptors then, and sent natively.
    pub healed: AtomicU64,
    /// How often it has registered.
    pub registrations: AtomicU64,
    /// How often it has asked for the epoch.
    pub checks: AtomicU64,
}

/// How the interrupts from one source to one target fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many were sent.
    pub sent: u64,
    /// How many were handled.
    pub handled: u64,
}

impl Account {
    /// Those that have not been handled.
    pub fn missing(self) -> u64 {
        self.sent.saturating_sub(self.handled)
    }

    /// Those that were handled again.
    pub fn repeated(self) -> u64 {
        self.handled.saturating_sub(self.sent)
    }
}

impl Ledger {
    /// How the interrupts from a source fared.
    pub fn account(&self, source: usize) -> Account {
        // What was handled has been sent.
        let handled = self.handled[source].value.load(SeqCst);
        Account {
            sent: self.sent[source].value.load(SeqCst),
            handled,
        }
    }
}

impl Survival {
    /// Interrupts that have not been handled, of all sources that have left their numbers.
    pub fn missing(&self) -> u64 {
        let accounts = self
            .ledgers
            .iter()
            .flat_map(|ledger| (0..LEDGER_SOURCES).map(|source| ledger.account(source)));
        accounts.map(Account::missing).sum()
    }

    /// Forgets everything but the registration. No vCPU may be at work.
    pub fn clear(&self) {
        for ledger in &self.ledgers {
            let numbers = ledger.handled.iter().chain(&ledger.sent);
            numbers.for_each(|number| number.value.store(0, Relaxed));
        }
        let flags = [&self.healing, &self.over, &self.finished];
        flags.into_iter().for_each(|flag| flag.store(0, Relaxed));
        let counts = [
            &self.heals,
            &self.healed,
            &self.registrations,
            &self.checks, //
        ];
        counts.into_iter().for_each(|count| count.store(0, Relaxed));
    }
}

// The handler's assembly finds the numbers by these alone.
const _: () = {
    assert!(core::mem::offset_of!(Ledger, handled) == 0);
    assert!(size_of::<Number>() == 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_by_their_vectors() {
        assert_eq!(ledger_source(LEDGER_VECTORS), Some(0));
        assert_eq!(
            ledger_source(LEDGER_VECTORS + 5),
            Some(LEDGER_VCPUS + LEDGER_EVENTS - 1)
        );
        assert_eq!(ledger_source(LEDGER_VECTORS + 6), None);
        assert_eq!(ledger_source(LEDGER_VECTORS - 1), None);
    }

    #[test]
    fn a_source_loses_and_repeats_for_itself() {
        let survival = Survival::default();
        let [first, second, ..] = &survival.ledgers;
        first.sent[0].value.store(7, SeqCst);
        first.handled[0].value.store(5, SeqCst);
        second.sent[4].value.store(1, SeqCst);
        second.handled[4].value.store(2, SeqCst);
        assert_eq!(survival.missing(), 2);
        assert_eq!(second.account(4).repeated(), 1);
        assert_eq!(second.account(4).missing(), 0);
        survival.epoch.store(3, SeqCst);
        survival.clear();
        assert_eq!(survival.missing(), 0);
        assert_eq!(first.account(0), Account::default());
        assert_eq!(survival.epoch.load(SeqCst), 3);
    }
}
