// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Poll windows: how long an idle vCPU polls before it sleeps.

use pvirq_protocol::ioctl::PolicyName;

/// Returns the policy of this name.
pub fn policy(name: PolicyName) -> &'static dyn Policy {
    match name {
        PolicyName::HaltPoll => &HaltPoll,
        PolicyName::Fixed => &Fixed,
        PolicyName::Governor => &Governor,
        PolicyName::Adaptive => &Adaptive,
    }
}

/// Chooses a vCPU's window by its idle periods.
pub trait Policy {
    /// Returns the window for the next idle period, after one of `idle_ns` in which the window was `window_ns`. Neither
    /// window is above `ceiling_ns`.
    fn next(&self, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32;

    /// As [`Policy::next`], where `history` has the periods so far, including the last one.
    fn next_after(&self, history: &History, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32 {
        let _ = history;
        self.next(window_ns, idle_ns, ceiling_ns)
    }

    /// Returns the window for an idle period that begins. The one before it gave `window_ns`, perhaps by another policy or
    /// under another ceiling.
    fn current(&self, window_ns: u32, ceiling_ns: u32) -> u32 {
        window_ns.min(ceiling_ns)
    }
}

/// A vCPU's recent idle periods: whether a window as long as the ceiling pays.
///
/// Each short period, no longer than the ceiling, pays for polling in [`WORTH`](Self::WORTH) long ones, of which
/// [`MOST`](Self::MOST) can be saved up. So the host polls for a vCPU of whose periods more than one in three is short, and
/// stops soon when only long ones follow a burst of short ones.
///
/// The wake-up makes a period that ends in a halt longer. If it takes more than the ceiling, no such period is short. So
/// after each [`PROBE`](Self::PROBE) long ones in a row one more is polled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    credit: u32,
    long: u32,
}

impl History {
    /// The number of long periods for which a short one pays.
    pub const WORTH: u32 = 2;
    /// The most long periods that are polled for after the last short one.
    pub const MOST: u32 = 4 * Self::WORTH;
    /// The number of long periods in a row after which the next one is polled for.
    pub const PROBE: u32 = 16;

    /// Adds a period of `idle_ns`, and `hits` before it that ended within their window.
    pub fn add(&mut self, hits: u32, idle_ns: u64, ceiling_ns: u32) {
        let short = idle_ns <= u64::from(ceiling_ns);
        let hits = hits.saturating_add(short.into());

        self.credit = hits
            .saturating_mul(Self::WORTH)
            .saturating_add(self.credit)
            .min(Self::MOST);
        if hits != 0 {
            self.long = 0;
        }
        if !short {
            self.credit = self.credit.saturating_sub(1);
            self.long = self.long.wrapping_add(1);
        }
    }

    /// Packs the history into a word, for [`from_word`](Self::from_word).
    pub const fn word(self) -> u64 {
        ((self.credit as u64) << 32) | self.long as u64
    }

    /// Unpacks the history from [`word`](Self::word).
    pub const fn from_word(word: u64) -> Self {
        // The casts split the word.
        Self {
            credit: (word >> 32) as u32,
            long: word as u32,
        }
    }

    /// Returns whether polling pays in the next period.
    pub fn pays(&self) -> bool {
        self.credit != 0 || self.long != 0 && self.long % Self::PROBE == 0
    }
}

/// Always the ceiling.
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
/// The window grows when an idle period was longer than the window but shorter than the ceiling, and shrinks when it was
/// longer than both.
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
        let ceiling = u64::from(ceiling_ns);

        if idle_ns <= u64::from(window_ns) || idle_ns == ceiling {
            return window_ns.min(ceiling_ns);
        }
        if idle_ns < ceiling {
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

/// As the guest's haltpoll governor does (`adjust_poll_limit()` in `drivers/cpuidle/governors/haltpoll.c`), with its
/// default parameters.
///
/// It is [`HaltPoll`] with a larger first step.
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
            match window_ns / Self::FACTOR {
                window_ns if window_ns < Self::START_NS => 0,
                window_ns => window_ns.min(ceiling_ns),
            }
        } else {
            window_ns.min(ceiling_ns)
        }
    }
}

/// The ceiling, or 0: whichever pays, by the [`History`], or by the last period without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adaptive;

impl Policy for Adaptive {
    fn next(&self, _window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32 {
        match idle_ns <= u64::from(ceiling_ns) {
            true => ceiling_ns,
            false => 0,
        }
    }

    fn next_after(
        &self,
        history: &History,
        _window_ns: u32,
        _idle_ns: u64,
        ceiling_ns: u32,
    ) -> u32 {
        match history.pays() {
            true => ceiling_ns,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        mem,
        vec::Vec, //
    };

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
        // Once it covers the period, it stays.
        let expected = [10_000, 20_000, 40_000, 80_000, 160_000, 160_000, 160_000];
        assert_eq!(windows, expected);

        windows.clear();
        for _ in 0..6 {
            window = HaltPoll.next(window, 1_000_000, CEILING);
            windows.push(window);
        }
        assert_eq!(windows, [80_000, 40_000, 20_000, 10_000, 0, 0]);
        assert_eq!(HaltPoll.next(20_000, CEILING.into(), CEILING), 20_000);
    }

    #[test]
    fn the_governors_window_is_0_below_its_first_step() {
        let mut window = 0;
        let mut windows = Vec::new();
        for idle in [150_000, 150_000, 150_000, 1_000_000, 1_000_000, 1_000_000] {
            window = Governor.next(window, idle, CEILING);
            windows.push(window);
        }
        assert_eq!(windows, [50_000, 100_000, 200_000, 100_000, 50_000, 0]);
    }

    /// Returns the share of these periods' time that is polled, and the share of periods that are polled through, in percent.
    fn polled(periods: impl Iterator<Item = u64>) -> (f64, f64) {
        let (mut history, mut window, mut hits) = (History::default(), 0, 0);
        let (mut time, mut burnt, mut all, mut hit) = (0, 0, 0_u32, 0_u32);
        for idle in periods {
            time += idle;
            all += 1;
            burnt += idle.min(window.into());
            if idle <= window.into() {
                // The host does not see this period.
                hit += 1;
                hits += 1;
                continue;
            }
            history.add(mem::take(&mut hits), idle, CEILING);
            window = Adaptive.next_after(&history, window, idle, CEILING);
        }
        let percent = |part: f64, whole: f64| 100.0 * part / whole;
        (
            percent(burnt as f64, time as f64),
            percent(hit.into(), all.into()),
        )
    }

    #[test]
    fn a_short_idle_period_pays_for_some_long_ones() {
        let mut history = History::default();
        assert!(!history.pays());
        history.add(0, CEILING.into(), CEILING);
        for _ in 1..History::WORTH {
            history.add(0, 1_000_000, CEILING);
            assert!(history.pays());
        }
        history.add(0, 1_000_000, CEILING);
        assert!(!history.pays());
        assert_eq!(Adaptive.next_after(&history, 0, 0, CEILING), 0);

        // However many short ones there were, polling soon stops.
        history.add(u32::MAX, 1_000_000, CEILING);
        for _ in 2..History::MOST {
            history.add(0, 1_000_000, CEILING);
            assert_eq!(Adaptive.next_after(&history, 0, 0, CEILING), CEILING);
        }
        history.add(0, 1_000_000, CEILING);
        assert!(!history.pays());
    }

    #[test]
    fn polling_is_tried_again_and_costs_little() {
        // One period in 16, a tenth of which is polled for.
        let (burnt, hits) = polled((0..10_000).map(|_| 10 * u64::from(CEILING)));
        assert!((0.5..0.7).contains(&burnt) && hits == 0.0, "{burnt}");
    }

    #[test]
    fn bursts_are_polled_through() {
        let burst = [[20_000; 9].as_slice(), &[3_000_000]].concat();
        let (burnt, hits) = polled((0..100).flat_map(|_| burst.clone()));
        assert!(burnt < 15.0 && hits > 80.0, "{burnt} {hits}");
    }

    proptest! {
        #[test]
        fn no_window_is_above_its_ceiling(
            window: u32,
            idle: u64,
            ceiling: u32,
            hits: u32,
        ) {
            let window = window.min(ceiling);
            let mut history = History::default();
            history.add(hits, idle, ceiling);
            prop_assert_eq!(History::from_word(history.word()), history);
            for name in PolicyName::ALL {
                let policy = policy(*name);
                prop_assert!(policy.next(window, idle, ceiling) <= ceiling, "{name:?}");
                prop_assert!(policy.next_after(&history, window, idle, ceiling) <= ceiling, "{name:?}");
                prop_assert!(policy.current(idle as u32, ceiling) <= ceiling, "{name:?}");
            }
        }
    }
}
