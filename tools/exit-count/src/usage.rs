// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The CPU time that a vCPU's thread uses, and how much of it the host polls.

use std::{fs, os::fd::RawFd, time::Duration};

use nix::time::{clock_gettime, ClockId};

use crate::error::Error;

/// The unit of times in `/proc/PID/stat`: `USER_HZ`, which is 100 on all architectures that KVM is on.
const TICK: Duration = Duration::from_millis(10);
/// The place of `guest_time` in `/proc/PID/stat`, counted from the field behind the command's name.
const GUEST_TIME: usize = 43 - 3;

/// What a vCPU's thread has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The time that has passed.
    pub wall: Duration,
    /// The CPU time, in the host and in the guest.
    pub cpu: Duration,
    /// The part of it in the guest, as the host's timer ticks find it.
    pub guest: Duration,
    /// How long pvirq has polled for the vCPU in the host.
    pub polled: Duration,
    /// How often it did not, or stopped, because another task wanted the CPU, or for want of budget.
    pub contended: u64,
}

impl Usage {
    /// Reads what the calling thread has used, which runs the vCPU of this file.
    pub fn read(vcpu: RawFd) -> Result<Self, Error> {
        let clock = |id| {
            clock_gettime(id)
                .map(Duration::from)
                .map_err(|errno| Error::Os("cannot read a clock".into(), errno.into()))
        };
        let text =
            |path: &str| fs::read_to_string(path).map_err(Error::os(format!("cannot read {path}")));
        let stat = text("/proc/thread-self/stat")?;
        let info = text(&format!("/proc/thread-self/fdinfo/{vcpu}"))?;
        let counter = |name| counter(&info, name).unwrap_or(0);
        Ok(Usage {
            wall: clock(ClockId::CLOCK_MONOTONIC)?,
            cpu: clock(ClockId::CLOCK_THREAD_CPUTIME_ID)?,
            guest: guest_time(&stat)
                .ok_or_else(|| Error::Count("/proc/thread-self/stat is not as expected".into()))?,
            // On KVM's own device there are none.
            polled: Duration::from_nanos(counter("pvirq-polled-ns")),
            contended: counter("pvirq-idle-contended"),
        })
    }
}

crate::arithmetic!(Usage: wall, cpu, guest, polled, contended);

/// Finds the guest's time in a thread's `stat`.
fn guest_time(stat: &str) -> Option<Duration> {
    // The command's name may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u32 = fields.split_whitespace().nth(GUEST_TIME)?.parse().ok()?;
    Some(TICK * ticks)
}

/// Finds a counter in a `/proc/PID/fdinfo` file.
pub fn counter(info: &str, name: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_guests_time_is_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|field| (field * 10).to_string()).collect();
        let stat = format!("17 (a ) (b) {}", fields.join(" "));
        assert_eq!(guest_time(&stat), Some(Duration::from_millis(4300)));
        assert_eq!(guest_time("17 (a) 1 2 3"), None);
        assert_eq!(guest_time(""), None);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let info = "pos:\t0\npvirq-polled-ns-more:\t7\npvirq-polled-ns:\t12\n";
        assert_eq!(counter(info, "pvirq-polled-ns"), Some(12));
        assert_eq!(counter(info, "pvirq-idle-calls"), None);
    }

    #[test]
    fn a_thread_that_works_uses_time() -> Result<(), Error> {
        let file = fs::File::open("/dev/null").map_err(Error::os("no /dev/null"))?;
        let before = Usage::read(file.as_raw_fd())?;
        let mut used = Usage::default();
        while used.cpu < Duration::from_millis(5) {
            used = Usage::read(file.as_raw_fd())? - before;
        }
        assert!(used.wall >= used.cpu, "{used:?}");
        assert_eq!((used.polled, used.contended), (Duration::ZERO, 0));
        Ok(())
    }
}
