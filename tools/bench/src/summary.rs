// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Statistics of many measurements.

use serde::Serialize;

/// Median, 99th percentile and mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The mean.
    pub mean: f64,
}

impl Summary {
    /// Summarises values, if there are any.
    pub fn of(values: &mut [u64]) -> Option<Self> {
        let p50 = percentile(values, 50)?;
        let p99 = percentile(values, 99)?;
        let mean = values.iter().map(|&value| value as f64).sum::<f64>() / values.len() as f64;
        Some(Summary { p50, p99, mean })
    }
}

/// The least value that is not less than `percent` of all.
fn percentile(values: &mut [u64], percent: usize) -> Option<u64> {
    let rank = (values.len() * percent).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(rank).1)
}

/// The median of ratios.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// The number of pairs, and the median of their ratios, which is not a number if there is no pair.
pub fn median_of_ratios(of: &[f64], to: &[f64]) -> (usize, f64) {
    let mut ratios: Vec<_> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    (ratios.len(), median(&mut ratios).unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(
            Summary::of(&mut values),
            Some(Summary {
                p50: 100,
                p99: 198,
                mean: 100.5
            })
        );
        assert_eq!(
            Summary::of(&mut [7]),
            Some(Summary {
                p50: 7,
                p99: 7,
                mean: 7.0
            })
        );
        assert_eq!(Summary::of(&mut []), None);
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
        assert_eq!(median_of_ratios(&[2.0, 9.0, 1.0], &[1.0, 3.0]), (2, 2.5));
        assert!(median_of_ratios(&[], &[1.0]).1.is_nan());
    }
}
