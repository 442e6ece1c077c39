// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When an idle vCPU is woken.

use std::time::Duration;

exit_count::named! {
    /// How the intervals between wake-ups are distributed. The mean is given.
    Distribution {
        /// All are the same.
        Fixed = "fixed",
        /// Exponentially: wake-ups that know nothing of each other.
        Exponential = "exponential",
        /// Several short ones, of a tenth of the mean, and then a long one.
        Bursty = "bursty",
    }
}

impl Distribution {
    /// The number of wake-ups in a burst.
    pub const BURST: u32 = 10;

    /// Intervals with this mean, without an end. The same seed gives the same ones.
    pub fn intervals(self, mean: Duration, seed: u64) -> impl Iterator<Item = Duration> {
        let mut random = Random(seed);
        (0_u32..).map(move |index| match self {
            Self::Fixed => mean,
            Self::Exponential => mean.mul_f64(-(1.0 - random.unit()).ln()),
            Self::Bursty if index % Self::BURST == 0 => {
                mean * Self::BURST - mean / 10 * (Self::BURST - 1)
            }
            Self::Bursty => mean / 10,
        })
    }
}

/// The generator `splitmix64`.
struct Random(u64);

impl Random {
    /// A number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        // As many bits as the mantissa has.
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_what_was_asked_for() {
        const COUNT: u32 = 10_000;
        let mean = Duration::from_micros(100);
        for distribution in Distribution::ALL {
            let sum: Duration = distribution.intervals(mean, 7).take(COUNT as usize).sum();
            let measured = (sum / COUNT).as_secs_f64() / mean.as_secs_f64();
            assert!(
                (0.97..1.03).contains(&measured),
                "{distribution:?}: {measured}"
            );
        }
    }

    #[test]
    fn distributions_differ() {
        let mean = Duration::from_micros(100);
        let short = |distribution: Distribution| {
            let intervals = distribution.intervals(mean, 3).take(10_000);
            intervals.filter(|&interval| interval < mean / 2).count()
        };
        assert_eq!(short(Distribution::Fixed), 0);
        assert_eq!(short(Distribution::Bursty), 9_000);
        // 1 - exp(-1/2) of them.
        let share = short(Distribution::Exponential) as f64 / 10_000.0;
        assert!((0.37..0.42).contains(&share), "{share}");
    }

    #[test]
    fn seeds_decide() {
        let some = |seed| -> Vec<_> {
            let intervals = Distribution::Exponential.intervals(Duration::from_millis(1), seed);
            intervals.take(5).collect()
        };
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
    }
}
