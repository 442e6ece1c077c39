// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Moderation: pauses between the kicks of a vCPU during bursts of interrupts.

/// The signals that one kick has delivered.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// The number of signals.
    pub signals: u32,
    /// The time from the first of them until the vCPU took them.
    pub gathered_ns: u64,
    /// The time that the kick took of that, until the vCPU had left the guest.
    pub kick_ns: u64,
}

impl Batch {
    /// The fewest signals of a burst, and the fewest that came in the time of a kick.
    const DENSE: u32 = 4;

    /// Kicks for bursts take at most a fraction `1 / SHARE` of a vCPU's time.
    const SHARE: u64 = 16;

    /// Returns how long the next signals wait, to be delivered together, `ceiling_ns` at most.
    ///
    /// 0 if this was not a burst: signals that come one by one, as from a lone source, do not wait.
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
        // Nor do those that came one by one in a pause.
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
    fn no_pause_is_longer_than_the_ceiling() {
        assert_eq!(pause(64, 10_000_000, 10_000_000), u64::from(CEILING));
        assert_eq!(pause(u32::MAX, u64::MAX, u64::MAX), u64::from(CEILING));
    }

    #[test]
    fn a_ceiling_of_zero_means_no_pause() {
        let batch = Batch {
            signals: 64,
            gathered_ns: 3_000,
            kick_ns: 3_000,
        };
        assert_eq!(batch.pause_ns(0), 0);
    }
}
