// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench poll`: measures what polling for idle vCPUs saves and burns.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{ensure, Result};
use pvirq::device;
use pvirq_bench::poll::{Distribution, Mode, Options, Point, Polling};
use pvirq_protocol::ioctl::Poll;

use super::output::Output;

/// The intervals between wake-ups by default, in µs: half a decade each.
const INTERVALS: [f64; 9] = [1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1000.0, 3160.0, 10000.0];

/// Measures wake-ups of an idle vCPU by another: what polling saves and burns
///
/// In each mode, at each interval: exits per wake-up, how long a wake-up takes, and the CPU time of the idle vCPU.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,

    /// Only these modes [default: all, those of pvirq if /dev/pvirq is there]
    #[arg(long = "mode", value_name = "NAME,...", value_delimiter = ',', value_parser = mode)]
    modes: Vec<Mode>,

    /// Only these distributions of the intervals: fixed, exponential, bursty [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = distribution)]
    arrivals: Vec<Distribution>,

    /// The mean intervals between wake-ups, in µs, from 1 to 10000 [default: two for each power of ten]
    #[arg(long = "interval", value_name = "US,...", value_delimiter = ',', value_parser = interval)]
    intervals: Vec<Duration>,

    /// How long to measure each mode at each interval, in ms
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    time: u64,

    /// How long to run pvirq's modes before that, twice, so that the budget is what it is in the long run
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=600_000))]
    warm_up: u64,

    /// The longest window of guests on pvirq [default: the module's]
    #[arg(long, value_name = "NS", value_parser = clap::value_parser!(u32).range(0..=i64::from(Poll::MAX_NS)))]
    guest_poll_ns: Option<u32>,

    /// The longest window of the host [default: the module's]
    #[arg(long, value_name = "NS", value_parser = clap::value_parser!(u32).range(0..=i64::from(Poll::MAX_NS)))]
    host_poll_ns: Option<u32>,

    /// The share of a CPU that the host may burn by polling for a VM [default: the module's]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=i64::from(Poll::BUDGET_MAX)))]
    poll_budget: Option<u32>,

    /// Fails if KVM's polling, or a guest's own, is better than pvirq's default policy both in exits and in CPU time
    #[arg(long)]
    check: bool,
}

fn mode(name: &str) -> Result<Mode, String> {
    find(name, &Mode::ALL, Mode::name)
}

fn distribution(name: &str) -> Result<Distribution, String> {
    find(name, &Distribution::ALL, Distribution::name)
}

/// Finds what has a name.
fn find<T: Copy>(name: &str, all: &[T], name_of: fn(T) -> &'static str) -> Result<T, String> {
    all.iter()
        .copied()
        .find(|&one| name_of(one) == name)
        .ok_or_else(|| {
            let names: Vec<_> = all.iter().copied().map(name_of).collect();
            format!("there are {}", names.join(", "))
        })
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(us) if (1.0..=10_000.0).contains(&us) => Ok(micros(us)),
        _ => Err("not a number of µs from 1 to 10000".into()),
    }
}

fn micros(us: f64) -> Duration {
    // What is not a whole number of ns makes no difference.
    Duration::from_nanos((us * 1000.0).round() as u64)
}

/// What was chosen, or all there is.
fn chosen<T: Clone>(chosen: &[T], all: impl IntoIterator<Item = T>) -> Vec<T> {
    match chosen {
        [] => all.into_iter().collect(),
        some => some.to_vec(),
    }
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let there = |mode: &Mode| Path::new(mode.device()).exists();
    let modes = chosen(&args.modes, Mode::ALL.into_iter().filter(there));
    if let Some(mode) = modes.iter().find(|mode| !there(mode)) {
        ensure!(
            mode.device() != device::PVIRQ,
            "{} takes {}; is pvirq.ko loaded?",
            mode.name(),
            device::PVIRQ
        );
    }
    let intervals = chosen(&args.intervals, INTERVALS.map(micros));
    let points: Vec<Point> = chosen(&args.arrivals, Distribution::ALL)
        .into_iter()
        .flat_map(|distribution| {
            let point = move |&interval| Point {
                distribution,
                interval,
            };
            intervals.iter().map(point).collect::<Vec<_>>()
        })
        .collect();

    let polling = Polling(Options {
        modes,
        points,
        time: Duration::from_millis(args.time),
        warm_up: Duration::from_millis(args.warm_up),
        guest_poll_ns: args.guest_poll_ns,
        host_poll_ns: args.host_poll_ns,
        budget: args.poll_budget,
        check: args.check,
    });
    args.output
        .measure(args.output.session(true)?, &[Box::new(polling)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_shown() {
        for known in Mode::ALL {
            assert_eq!(mode(known.name()), Ok(known));
        }
        let error = mode("none").unwrap_err();
        assert!(error.contains("guest-spin") && error.contains("pvirq-halt-poll"));
        assert_eq!(distribution("bursty"), Ok(Distribution::Bursty));
        assert!(distribution("").is_err());
    }

    #[test]
    fn intervals_have_limits() {
        assert_eq!(interval("3.16"), Ok(Duration::from_nanos(3160)));
        assert_eq!(interval("10000"), Ok(Duration::from_millis(10)));
        for wrong in ["0", "0.5", "10001", "-1", "NaN", "x", ""] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
