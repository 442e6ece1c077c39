// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How long a vCPU is left alone after a burst of interrupts.
//!
//! All of it is arithmetic on what the host has measured. Times are in ns.

/// What a vCPU was kicked for once.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How many signals it took part in.
    pub signals: u32,
    /// The time from the first of them until the vCPU took them.
    pub gathered_ns: u64,
    /// The time that the kick took of that: until the vCPU had left the guest.
    pub kick_ns: u64,
}

impl Batch {
    /// The fewest signals of a burst, and how many of them at least came in the time of a kick.
    const DENSE: u32 = 4;

    /// The share of a vCPU's time that kicks for bursts may take: one in so many.
    const SHARE: u64 = 16;

    /// How long the next signals are to wait, to be delivered together, `ceiling_ns` at most.
    ///
    /// Nothing if this was no burst: signals that come one by one, by a lone source for example, are
    /// not worth the wait.
    pub fn pause_ns(&self, ceiling_ns: u32) -> u64 {
        let kicks = u64::from(self.signals).saturating_mul(self.kick_ns);
        let dense = kicks >= self.gathered_ns.saturating_mul(Self::DENSE.into());

        match self.signals >= Self::DENSE && dense {
            true => self
                .kick_ns
                .saturating_mul(Self::SHARE)
                .min(ceiling_ns.into()),
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: u32 = 1_000_000;

    fn pause(signals: u32, gathered_ns: u64, kick_ns: u64) -> u64 {
        let batch = Batch {
            signals,
            gathered_ns,
            kick_ns,
        };
        batch.pause_ns(CEILING)
    }

    #[test]
    fn lone_signals_do_not_wait() {
        assert_eq!(pause(1, 3_000, 3_000), 0);
        assert_eq!(pause(3, 3_000, 3_000), 0);
        // Nor those that came in a pause, one after the other.
        assert_eq!(pause(16, 48_000, 3_000), 0);
    }

    #[test]
    fn bursts_are_kicked_for_a_sixteenth_of_the_time_at_most() {
        assert_eq!(pause(4, 3_000, 3_000), 48_000);
        assert_eq!(pause(64, 48_000, 3_000), 48_000);
        assert_eq!(pause(63, 48_000, 3_000), 0);
        assert_eq!(pause(64, 100_000, 60_000), 960_000);
    }

    #[test]
    fn nobody_waits_longer_than_the_ceiling() {
        assert_eq!(pause(64, 10_000_000, 10_000_000), u64::from(CEILING));
        assert_eq!(pause(u32::MAX, u64::MAX, u64::MAX), u64::from(CEILING));
    }

    #[test]
    fn a_ceiling_of_nothing_is_no_pause() {
        let batch = Batch {
            signals: 64,
            gathered_ns: 3_000,
            kick_ns: 3_000,
        };
        assert_eq!(batch.pause_ns(0), 0);
    }
}
