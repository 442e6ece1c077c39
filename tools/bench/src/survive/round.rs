// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One save and restore.

use std::{path::Path, time::Duration};

use mini_guest::Random;
use pvirq::{
    device::{Device, PVIRQ},
    extension::Extension,
};
use pvirq_protocol::Vectors;
use vmm::{
    error::Error,
    machine::{snapshot::Snapshot, Config, Machine},
    msi,
};

use super::{case::SurviveCase, events::Events};

/// How long the guest runs at most between two saves, and how often that may be halved: short times are as likely as
/// long ones.
const LONGEST: Duration = Duration::from_millis(120);
const HALVINGS: u64 = 6;

/// How long the guest runs until the next save.
pub(super) fn delay(random: &mut Random) -> Duration {
    let longest = LONGEST.as_nanos() as u64 >> random.below(HALVINGS + 1);
    Duration::from_nanos(random.below(longest))
}

/// What was seen in rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Eventfds that were signalled while no vCPU was in `KVM_RUN`.
    pub signalled: u64,
    /// Interrupts that the local APICs had when they were saved.
    pub in_lapics: u64,
    /// Interrupts that were posted and not in the local APICs.
    pub posted: u64,
    /// vCPUs that were saved while halted.
    pub halted: u64,
}

exit_count::arithmetic!(Counts: signalled, in_lapics, posted, halted);

/// What was saved.
pub(super) struct Saved {
    snapshot: Snapshot,
    /// For each vCPU, what is posted and neither in its local APIC nor in memory.
    posted: Vec<Vectors>,
    pub counts: Counts,
}

/// Saves a machine whose vCPUs are paused, on a device.
pub(super) fn save(
    case: &SurviveCase,
    device: &Path,
    machine: &Machine,
    events: &Events,
    random: &mut Random,
) -> Result<Saved, Error> {
    let by_posted = case.posted && device.to_str() == Some(PVIRQ);
    let mut counts = Counts::default();

    // A VMM's devices may go on for a while after its vCPUs have stopped.
    if random.below(2) == 0 {
        counts.signalled += events.signal_all();
    }
    events.detach(machine, true, !by_posted)?;
    let vcpus = machine.save_vcpus()?;
    if by_posted {
        counts.signalled += events.signal_all();
        events.detach(machine, false, true)?;
    }
    let snapshot = Snapshot::new(vcpus, machine)?;
    let posted = match by_posted {
        true => posted(machine)?,
        false => vec![Vectors::default(); machine.vcpus()],
    };
    for (vcpu, posted) in snapshot.vcpus().iter().zip(&posted) {
        counts.in_lapics += vcpu.pending().count() as u64;
        counts.posted += u64::from(posted.len());
        counts.halted += u64::from(vcpu.is_halted());
    }
    Ok(Saved {
        snapshot,
        posted,
        counts,
    })
}

/// What is posted to each vCPU and is not in its descriptor, which is saved with the memory.
fn posted(machine: &Machine) -> Result<Vec<Vectors>, Error> {
    let extension = Extension::new(machine.vm())?;
    let shared = machine.shared()?;
    (0..machine.vcpus())
        .map(|vcpu| {
            let words = extension.posted(vcpu as u32)?.words();
            let in_memory = shared.descriptors[vcpu].pending().words();
            Ok(Vectors::from_words(std::array::from_fn(|index| {
                words[index] & !in_memory[index]
            })))
        })
        .collect()
}

impl Saved {
    /// Makes a machine that goes on from here.
    pub fn restore(self, device: &Device, config: &Config<'_>) -> Result<Machine, Error> {
        let machine = Machine::restore(device, config, self.snapshot)?;
        let is_pvirq = device.path().to_str() == Some(PVIRQ);
        for (vcpu, vectors) in (0..).zip(self.posted) {
            match is_pvirq {
                _ if vectors.is_empty() => {}
                true => Extension::new(machine.vm())?.set_posted(vcpu, vectors)?,
                // There is no pvirq to post.
                false => vectors
                    .into_iter()
                    .try_for_each(|vector| msi::signal(machine.vm(), vcpu, vector.get()))?,
            }
        }
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_short_and_long() {
        let mut random = Random::new(5);
        let delays: Vec<_> = (0..1000).map(|_| delay(&mut random)).collect();
        assert!(delays.iter().all(|delay| *delay < LONGEST));
        assert!(delays.iter().any(|delay| *delay > LONGEST / 3));
        assert!(
            delays
                .iter()
                .filter(|delay| **delay < LONGEST / 100)
                .count()
                > 100
        );
    }
}
