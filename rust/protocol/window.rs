// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How long an idle vCPU polls before it sleeps: policies, and the budget of a VM.
//!
//! All of it is arithmetic on what the host has measured. Times are in ns.

numbered! {
    /// The policies that there are.
    pub enum PolicyName: u32 {
        /// [`HaltPoll`].
        HaltPoll = 0,
        /// [`Fixed`].
        Fixed = 1,
        /// [`Governor`].
        Governor = 2,
    }
}

impl PolicyName {
    /// The policy of this name.
    pub fn policy(self) -> &'static dyn Policy {
        match self {
            Self::HaltPoll => &HaltPoll,
            Self::Fixed => &Fixed,
            Self::Governor => &Governor,
        }
    }
}

/// Decides a window by the idle periods of a vCPU.
pub trait Policy {
    /// The window for the next idle period, after one of `idle_ns` in which the window was
    /// `window_ns`. Neither it nor the result is above `ceiling_ns`.
    fn next(&self, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32;

    /// The window for an idle period that begins, where the one before it gave `window_ns`, perhaps
    /// by another policy or under another ceiling.
    fn current(&self, window_ns: u32, ceiling_ns: u32) -> u32 {
        window_ns.min(ceiling_ns)
    }
}

/// Always the ceiling: whoever polls, polls that long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed;

impl Policy for Fixed {
    fn next(&self, _window_ns: u32, _idle_ns: u64, ceiling_ns: u32) -> u32 {
        ceiling_ns
    }

    fn current(&self, _window_ns: u32, ceiling_ns: u32) -> u32 {
        ceiling_ns
    }
}

/// As KVM does for HLT (`kvm_vcpu_halt()` in `virt/kvm/kvm_main.c`), with its default parameters.
///
/// It grows when an idle period was longer than the window, but could have been polled through, and
/// shrinks when none could.
#[derive(Clone, Copy, Debug, Default)]
pub struct HaltPoll;

impl HaltPoll {
    /// `halt_poll_ns_grow_start`.
    pub const START_NS: u32 = 10_000;
    /// `halt_poll_ns_grow` and `halt_poll_ns_shrink`.
    const FACTOR: u32 = 2;
}

impl Policy for HaltPoll {
    fn next(&self, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32 {
        if idle_ns <= u64::from(window_ns) {
            return window_ns.min(ceiling_ns);
        }
        if idle_ns < u64::from(ceiling_ns) {
            return window_ns
                .saturating_mul(Self::FACTOR)
                .max(Self::START_NS)
                .min(ceiling_ns);
        }
        match window_ns / Self::FACTOR {
            window_ns if window_ns < Self::START_NS => 0,
            window_ns => window_ns.min(ceiling_ns),
        }
    }
}

/// As the guest's haltpoll governor does (`adjust_poll_limit()` in
/// `drivers/cpuidle/governors/haltpoll.c`), with its default parameters.
///
/// It is [`HaltPoll`] with a larger first step, and never gives up: it halves down to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Governor;

impl Governor {
    /// `guest_halt_poll_grow_start`.
    const START_NS: u32 = 50_000;
    /// `guest_halt_poll_grow` and `guest_halt_poll_shrink`.
    const FACTOR: u32 = 2;
}

impl Policy for Governor {
    fn next(&self, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32 {
        let ceiling = u64::from(ceiling_ns);

        if idle_ns > u64::from(window_ns) && idle_ns <= ceiling {
            window_ns
                .saturating_mul(Self::FACTOR)
                .max(Self::START_NS)
                .min(ceiling_ns)
        } else if idle_ns > ceiling {
            (window_ns / Self::FACTOR).min(ceiling_ns)
        } else {
            window_ns.min(ceiling_ns)
        }
    }
}

/// How much of one CPU all polling of a VM may burn.
///
/// A bucket that leaks: what is burnt goes in, a share of the time that passes runs out, and it
/// holds what may be burnt in [`PERIOD_NS`](Self::PERIOD_NS). So in any period of that length no more
/// than twice the share is burnt, and in the long run no more than the share.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    percent: u32,
    level_ns: u64,
    /// When the level was right.
    at_ns: u64,
}

impl Budget {
    /// The period over which the share counts.
    pub const PERIOD_NS: u64 = 1_000_000_000;

    /// The largest share.
    pub const PERCENT_MAX: u32 = 100;

    /// A budget of `percent`, [`PERCENT_MAX`](Self::PERCENT_MAX) at most, of which nothing is burnt.
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

    /// The share.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// How long may be polled at `now_ns`, if `want_ns` are wanted. What is granted counts as burnt
    /// until it is [settled](Self::settle).
    pub fn take(&mut self, now_ns: u64, want_ns: u32) -> u32 {
        self.leak(now_ns);
        let left = self.share(Self::PERIOD_NS).saturating_sub(self.level_ns);
        let granted = u64::from(want_ns).min(left);

        self.level_ns = self.level_ns.saturating_add(granted);
        granted as u32
    }

    /// Counts what was burnt, instead of what was granted, which may be less.
    pub fn settle(&mut self, granted_ns: u32, burnt_ns: u64) {
        self.level_ns = self
            .level_ns
            .saturating_sub(granted_ns.into())
            .saturating_add(burnt_ns);
    }

    fn leak(&mut self, now_ns: u64) {
        // vCPUs that read the clock at the same time may come in any order.
        let passed = now_ns.saturating_sub(self.at_ns).min(2 * Self::PERIOD_NS);

        self.level_ns = self.level_ns.saturating_sub(self.share(passed));
        self.at_ns = self.at_ns.max(now_ns);
    }

    fn share(&self, ns: u64) -> u64 {
        ns.saturating_mul(self.percent.into()) / u64::from(Self::PERCENT_MAX)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const CEILING: u32 = 200_000;

    #[test]
    fn a_window_grows_while_idle_periods_are_short_and_dies_when_they_are_long() {
        let mut window = 0;
        let mut windows = Vec::new();
        for _ in 0..7 {
            window = HaltPoll.next(window, 150_000, CEILING);
            windows.push(window);
        }
        // It covers the period then, and stays.
        let expected = [10_000, 20_000, 40_000, 80_000, 160_000, 160_000, 160_000];
        assert_eq!(windows, expected);

        windows.clear();
        for _ in 0..6 {
            window = HaltPoll.next(window, 1_000_000, CEILING);
            windows.push(window);
        }
        assert_eq!(windows, [80_000, 40_000, 20_000, 10_000, 0, 0]);
    }

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
        // It took longer than that, which has to be saved up first.
        budget.settle(1_000, 3_000);
        assert_eq!(budget.take(12_000, 1_000_000), 0);
        assert_eq!(budget.take(12_400, 1_000_000), 100);
        assert_eq!(Budget::new(0).take(u64::MAX, u32::MAX), 0);
    }

    proptest! {
        #[test]
        fn no_window_is_above_its_ceiling(
            window: u32,
            idle: u64,
            ceiling: u32,
        ) {
            let window = window.min(ceiling);
            for name in PolicyName::ALL {
                let policy = name.policy();
                prop_assert!(policy.next(window, idle, ceiling) <= ceiling, "{name:?}");
                prop_assert!(policy.current(idle as u32, ceiling) <= ceiling, "{name:?}");
            }
        }

        #[test]
        fn a_budget_holds_over_every_run(
            percent in 0..=Budget::PERCENT_MAX,
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
