// SPDX-License-Identifier: GPL-2.0 OR MIT

//! CPUs of the host, and threads that stay on them.

use std::{fmt, io, str::FromStr};

use nix::{
    sched::{sched_getaffinity, sched_setaffinity, CpuSet},
    unistd::Pid,
};

use crate::error::Error;

/// A list of CPUs, in the kernel's notation: `0-3,8`. The order counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The CPUs that this process may use.
    pub fn allowed() -> Result<Self, Error> {
        let set = sched_getaffinity(Pid::from_raw(0))
            .map_err(|errno| Error::Os("cannot tell which CPUs there are".into(), errno.into()))?;
        Ok(CpuList(
            (0..CpuSet::count())
                .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
                .collect(),
        ))
    }

    /// The number of CPUs.
    #[expect(clippy::len_without_is_empty, reason = "there is no empty list")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The CPU of each vCPU, if each takes the next one in turn.
    pub fn in_turn(&self, vcpus: usize) -> Vec<usize> {
        self.0.iter().copied().cycle().take(vcpus).collect()
    }

    /// The CPU of each vCPU, if the first has a CPU for itself, where there are several, and the others share the next.
    pub fn rest_together(&self, vcpus: usize) -> Vec<usize> {
        let two = self.0.iter().copied().take(2).collect();
        CpuList(two).first_alone(vcpus)
    }

    /// The CPU of each vCPU, if the first has a CPU for itself, where there are several, and the others share the rest.
    pub fn first_alone(&self, vcpus: usize) -> Vec<usize> {
        match self.0.split_first() {
            Some((first, rest)) if !rest.is_empty() => [first]
                .into_iter()
                .chain(rest.iter().cycle())
                .copied()
                .take(vcpus)
                .collect(),
            _ => self.in_turn(vcpus),
        }
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(cpu) if cpu < CpuSet::count() => Ok(cpu),
            _ => Err(format!("'{text}' is not the number of a CPU")),
        };
        let mut cpus = Vec::new();
        for part in list.split(',') {
            match part.split_once('-') {
                None => cpus.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("'{part}' is not a range of CPUs"));
                    }
                    cpus.extend(first..=last);
                }
            }
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&names.join(","))
    }
}

/// Keeps the calling thread on a CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| Error::Os(format!("cannot stay on CPU {cpu}"), io::Error::from(errno)))
}

/// Gives the calling thread its CPU whenever it wants it, before all threads that are not so preferred.
///
/// If that is not permitted, it takes turns with them, as before.
pub fn prefer_this_thread() {
    let least = libc::sched_param { sched_priority: 1 };
    // SAFETY: The structure is valid, and 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &least) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(list: &str) -> Vec<usize> {
        list.parse::<CpuList>().unwrap().0
    }

    #[test]
    fn lists_are_read_in_the_kernels_notation() {
        assert_eq!(cpus("0"), [0]);
        assert_eq!(cpus("3,0-2"), [3, 0, 1, 2]);
        for wrong in ["", "x", "1-", "2-1", "0,,1", "-1", "99999999"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn vcpus_are_placed() {
        let list: CpuList = "0-2".parse().unwrap();
        assert_eq!(list.in_turn(5), [0, 1, 2, 0, 1]);
        assert_eq!(list.first_alone(5), [0, 1, 2, 1, 2]);
        assert_eq!(list.rest_together(5), [0, 1, 1, 1, 1]);
        let one: CpuList = "7".parse().unwrap();
        assert_eq!(one.first_alone(3), [7, 7, 7]);
        assert_eq!(one.rest_together(3), [7, 7, 7]);
    }
}
