// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What vCPUs note of a storm: who has sent what to whom, and what has arrived.
//!
//! Every interrupt from one vCPU to another has a sequence number, which the sender leaves before it sends. Whoever
//! handles an interrupt at the target acknowledges the numbers of all senders, because interrupts merge: several posts
//! can end in one delivery, which comes after the last of them. So at the end every number must have been acknowledged.
//! And there must be no more deliveries than there were interrupts that could not rely on an earlier one.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use crate::MAX_VCPUS;

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
    /// Forgets everything. Nobody may be at work.
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
}
