// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How long an idle vCPU polls before it sleeps. Times are in ns.

use pvirq_protocol::ioctl::PolicyName;

/// The policy of this name.
pub fn policy(name: PolicyName) -> &'static dyn Policy {
    match name {
        PolicyName::HaltPoll => &HaltPoll,
        PolicyName::Fixed => &Fixed,
        PolicyName::Governor => &Governor,
        PolicyName::Adaptive => &Adaptive,
    }
}

/// Decides a window by the idle periods of a vCPU.
pub trait Policy {
    /// The window for the next idle period, after one of `idle_ns` in which the window was
    /// `window_ns`. Neither it nor the result is above `ceiling_ns`.
    fn next(&self, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32;

    /// The same, where all that is known of the periods before, this one with them, is `history`.
    fn next_after(&self, history: &History, window_ns: u32, idle_ns: u64, ceiling_ns: u32) -> u32 {
        let _ = history;
        self.next(window_ns, idle_ns, ceiling_ns)
    }

    /// The window for an idle period that begins, where the one before it gave `window_ns`, perhaps
    /// by another policy or under another ceiling.
    fn current(&self, window_ns: u32, ceiling_ns: u32) -> u32 {
        window_ns.min(ceiling_ns)
    }
}

/// Whether a vCPU's idle periods of late were such that a window of the ceiling's length is worth it.
///
/// It is an account. Each period that ended within the window, or would have, pays for
/// [`WORTH`](Self::WORTH) that did not, up to [`MOST`](Self::MOST). So a vCPU of whose periods more than
/// one in three is short is polled for, and one that falls silent after a burst is not for long.
///
/// A period that ends in a halt is longer than it was by the time that the wake-up takes. Where that is
/// more than the ceiling, none looks short. So after [`PROBE`](Self::PROBE) long ones in a row one more
/// is polled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    credit: u32,
    long: u32,
}

impl History {
    /// How many long periods a short one is worth.
    pub const WORTH: u32 = 2;
    /// How many long periods are polled for after the last short one, at most.
    pub const MOST: u32 = 4 * Self::WORTH;
    /// After so many long periods in a row the next one is polled for, whatever they were.
    pub const PROBE: u32 = 16;

    /// Adds a period of `idle_ns`, and `hits` before it that ended within their window, under a ceiling.
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

    /// All of it in a word, and [back](Self::from_word).
    pub const fn word(self) -> u64 {
        ((self.credit as u64) << 32) | self.long as u64
    }

    /// What [`word`](Self::word) was made of.
    pub const fn from_word(word: u64) -> Self {
        // The casts cut the word in two.
        Self {
            credit: (word >> 32) as u32,
            long: word as u32,
        }
    }

    /// Whether the next period is to be polled for.
    pub fn pays(&self) -> bool {
        self.credit != 0 || self.long != 0 && self.long % Self::PROBE == 0
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

/// The ceiling, or nothing: whichever pays, by the [`History`].
///
/// It knows only the last period without one.
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

    /// The share of time that is polled, in percent, and that of periods that are polled through, where they are as
    /// long as these.
    fn polled(periods: impl Iterator<Item = u64>) -> (f64, f64) {
        let (mut history, mut window, mut hits) = (History::default(), 0, 0);
        let (mut time, mut burnt, mut all, mut hit) = (0, 0, 0_u32, 0_u32);
        for idle in periods {
            time += idle;
            all += 1;
            burnt += idle.min(window.into());
            if idle <= window.into() {
                // The host is not told.
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
    fn a_short_idle_period_is_worth_some_long_ones() {
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

        // However many there were, it is soon over.
        history.add(u32::MAX, 1_000_000, CEILING);
        for _ in 2..History::MOST {
            history.add(0, 1_000_000, CEILING);
            assert_eq!(Adaptive.next_after(&history, 0, 0, CEILING), CEILING);
        }
        history.add(0, 1_000_000, CEILING);
        assert!(!history.pays());
    }

    #[test]
    fn what_is_given_up_is_tried_again_and_costs_little() {
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
