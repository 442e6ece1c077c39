// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The record of a storm: what each vCPU has sent to each other one, and what has arrived.
//!
//! Every interrupt from one vCPU to another has a sequence number, which the sender leaves before it sends. An interrupt
//! handler at the target acknowledges the numbers of all senders, because interrupts merge: several posts can end in one
//! delivery, which comes after the last of them. So at the end every number must have been acknowledged. And there must
//! be no more deliveries than there were interrupts that could not rely on an earlier one.
//!
//! There are two kinds of storm. In one all senders use the same vector, so that they meet at the same bit, and send
//! whether or not the last interrupt has arrived. Interrupts merge a lot there, also in the local APIC, where merges are
//! not counted, so that one delivery too many could go unnoticed. In the other each sender has a vector of its own, and
//! sends to no target that has not acknowledged the last one. Nothing merges there: each interrupt is delivered exactly
//! once.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use crate::layout::{MAX_VCPUS, STORM_VECTOR, STORM_VECTORS};

/// The vector that a sender uses in a storm, whose interrupts merge or not.
pub fn storm_vector(merges: bool, sender: u32) -> u8 {
    match merges {
        true => STORM_VECTOR,
        false => STORM_VECTORS + sender as u8,
    }
}

/// The senders whose numbers the handler of a vector acknowledges, if it is one of a storm's.
pub fn storm_senders(vector: u8) -> Option<Range<usize>> {
    let own = vector.checked_sub(STORM_VECTORS).map(usize::from);
    match own.filter(|&sender| sender < MAX_VCPUS) {
        Some(sender) => Some(sender..sender + 1),
        None => (vector == STORM_VECTOR).then_some(0..MAX_VCPUS),
    }
}

/// What is for one vCPU, with an element for each sender. Each sender writes its elements of `sent` and `deliveries`, the
/// target those of `acknowledged`.
#[repr(C, align(64))]
pub struct Storm {
    /// The sequence number of the last interrupt that the sender has sent here.
    pub sent: [AtomicU64; MAX_VCPUS],
    /// How many of them may cause a delivery: all but those that were coalesced.
    pub deliveries: [AtomicU64; MAX_VCPUS],
    /// The last sequence number that an interrupt handler has seen.
    pub acknowledged: [AtomicU64; MAX_VCPUS],
}

/// Sums over all senders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Interrupts that were sent.
    pub sent: u64,
    /// Those that no handler has acknowledged.
    pub missing: u64,
    /// Deliveries that there may have been.
    pub deliveries: u64,
}

impl Storm {
    /// Clears the record. No vCPU may be at work.
    pub fn clear(&self) {
        let all = [&self.sent, &self.deliveries, &self.acknowledged];
        all.into_iter()
            .flatten()
            .for_each(|number| number.store(0, Relaxed));
    }

    /// Adds up.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for sender in 0..MAX_VCPUS {
            // What is acknowledged was sent.
            let acknowledged = self.acknowledged[sender].load(SeqCst);
            let sent = self.sent[sender].load(SeqCst);

            totals.sent += sent;
            totals.missing += sent.saturating_sub(acknowledged);
            totals.deliveries += self.deliveries[sender].load(SeqCst);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_for_each_sender() {
        let storm = Storm {
            sent: [const { AtomicU64::new(0) }; MAX_VCPUS],
            deliveries: [const { AtomicU64::new(0) }; MAX_VCPUS],
            acknowledged: [const { AtomicU64::new(0) }; MAX_VCPUS],
        };
        storm.sent[0].store(7, Relaxed);
        storm.acknowledged[0].store(5, Relaxed);
        storm.sent[63].store(3, Relaxed);
        storm.acknowledged[63].store(3, Relaxed);
        storm.deliveries[63].store(1, Relaxed);
        let totals = Totals {
            sent: 10,
            missing: 2,
            deliveries: 1,
        };
        assert_eq!(storm.totals(), totals);
        storm.clear();
        assert_eq!(storm.totals(), Totals::default());
    }

    #[test]
    fn handlers_acknowledge_those_who_use_their_vector() {
        for (merges, count) in [(true, MAX_VCPUS), (false, 1)] {
            for sender in 0..MAX_VCPUS {
                let senders = storm_senders(storm_vector(merges, sender as u32)).unwrap();
                assert!(senders.contains(&sender));
                assert_eq!(senders.len(), count);
            }
        }
        assert_eq!(storm_senders(crate::IPI_VECTOR), None);
        assert_eq!(storm_senders(STORM_VECTORS + MAX_VCPUS as u8), None);
    }
}
