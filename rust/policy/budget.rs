// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The budget of a VM for polling in the host.

use pvirq_protocol::ioctl::Poll;

/// The share of one CPU that all polling for a VM may burn.
///
/// It is a leaky bucket: polling fills it, the share of the time that passes leaks out, and it holds the share of
/// [`PERIOD_NS`](Self::PERIOD_NS). So in any such period polling burns at most twice the share, and in the long run the
/// share.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    percent: u32,
    level_ns: u64,
    /// The time of the level.
    at_ns: u64,
}

impl Budget {
    /// The period whose share the bucket holds.
    pub const PERIOD_NS: u64 = 1_000_000_000;

    /// Makes an unused budget of `percent`, [`Poll::BUDGET_MAX`] at most.
    pub const fn new(percent: u32) -> Self {
        Self {
            percent,
            level_ns: 0,
            at_ns: 0,
        }
    }

    /// Changes the share. What is burnt stays burnt.
    pub fn set_percent(&mut self, percent: u32) {
        self.percent = percent;
    }

    /// Returns the share, in percent.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// Grants polling for up to `want_ns` at `now_ns`, and returns for how long. The grant counts as burnt until it is
    /// [settled](Self::settle).
    pub fn take(&mut self, now_ns: u64, want_ns: u32) -> u32 {
        self.leak(now_ns);
        let left = self.share(Self::PERIOD_NS).saturating_sub(self.level_ns);
        let granted = u64::from(want_ns).min(left);

        self.level_ns = self.level_ns.saturating_add(granted);
        granted as u32
    }

    /// Replaces a grant by the time that was burnt, which may be longer or shorter.
    pub fn settle(&mut self, granted_ns: u32, burnt_ns: u64) {
        self.level_ns = self
            .level_ns
            .saturating_sub(granted_ns.into())
            .saturating_add(burnt_ns);
    }

    fn leak(&mut self, now_ns: u64) {
        // vCPUs may call this in another order than that in which they have read the clock.
        let passed = now_ns.saturating_sub(self.at_ns).min(2 * Self::PERIOD_NS);

        self.level_ns = self.level_ns.saturating_sub(self.share(passed));
        self.at_ns = self.at_ns.max(now_ns);
    }

    fn share(&self, ns: u64) -> u64 {
        ns.saturating_mul(self.percent.into()) / u64::from(Poll::BUDGET_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_left_of_a_budget_until_time_passes() {
        let mut budget = Budget::new(25);
        assert_eq!(budget.take(0, 200_000_000), 200_000_000);
        assert_eq!(budget.take(0, 200_000_000), 50_000_000);
        assert_eq!(budget.take(0, 1), 0);
        budget.settle(20, 10);
        assert_eq!(budget.take(0, 100), 10);
        // A quarter of the time that passes.
        assert_eq!(budget.take(4_000, 1_000_000), 1_000);
        // It took longer than that, which must leak out first.
        budget.settle(1_000, 3_000);
        assert_eq!(budget.take(12_000, 1_000_000), 0);
        assert_eq!(budget.take(12_400, 1_000_000), 100);
        assert_eq!(Budget::new(0).take(u64::MAX, u32::MAX), 0);
    }

    proptest! {
        #[test]
        fn a_budget_holds_over_every_run(
            percent in 0..=Poll::BUDGET_MAX,
            steps in proptest::collection::vec((0..50_000_000_u64, 0..100_000_000_u32, any::<bool>()), 1..200),
        ) {
            let mut budget = Budget::new(percent);
            let (mut now, mut burnt) = (0, 0);
            for (passed, want, used) in steps {
                now += passed;
                let granted = budget.take(now, want);
                prop_assert!(granted <= want);
                if used {
                    burnt += u64::from(granted);
                } else {
                    budget.settle(granted, 0);
                }
            }
            let share = |ns: u64| ns * u64::from(percent) / 100;
            prop_assert!(burnt <= share(Budget::PERIOD_NS) + share(now) + 200);
        }
    }
}
