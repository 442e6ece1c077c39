// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One save and restore, and what is found out by the way.

use std::{
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use mini_guest::{Account, Shared, LEDGER_SOURCES, LEDGER_VCPUS, LEDGER_VECTORS};
use pvirq::{
    device::{Device, PVIRQ},
    extension::Extension,
};
use pvirq_protocol::Vectors;
use vmm::{
    error::Error,
    machine::{snapshot::Snapshot, Config, Machine},
};

use super::{case::SurviveCase, events::Events};
use crate::random::Random;

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
pub(super) struct Counts {
    /// Eventfds that were signalled while no vCPU was in `KVM_RUN`.
    pub signalled: u64,
    /// Interrupts that the local APICs had when they were saved.
    pub in_lapics: u64,
    /// Interrupts that were posted and not in the local APICs.
    pub posted: u64,
    /// vCPUs that were saved while halted.
    pub halted: u64,
}

/// What was saved.
pub(super) struct Saved {
    snapshot: Snapshot,
    /// For each vCPU, what its host has, besides what is in its local APIC and in memory.
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
                false => signal(machine.vm(), vcpu, vectors)?,
            }
        }
        Ok(machine)
    }
}

/// Interrupts a vCPU by messages, where there is no pvirq to post to it.
fn signal(vm: &VmFd, vcpu: u32, vectors: Vectors) -> Result<(), Error> {
    for vector in vectors {
        let msi = kvm_msi {
            address_lo: 0xfee0_0000 | (vcpu << 12),
            data: vector.get().into(),
            ..Default::default()
        };
        vm.signal_msi(msi).map_err(Error::kvm("KVM_SIGNAL_MSI"))?;
    }
    Ok(())
}

/// Looks at the ledger each time that no vCPU runs.
pub(super) struct Auditor {
    vcpus: usize,
    patience: Duration,
    /// For each target and source, since when so many have been sent.
    since: Vec<(u64, Instant)>,
    /// Interrupts that did not come in time.
    pub lost: u64,
    /// Interrupts that came once too often.
    pub twice: u64,
    /// Interrupts that had come at the last audit.
    pub handled: u64,
}

impl Auditor {
    pub fn new(vcpus: usize, patience: Duration) -> Self {
        Auditor {
            vcpus,
            patience,
            since: vec![(0, Instant::now()); LEDGER_VCPUS * LEDGER_SOURCES],
            lost: 0,
            twice: 0,
            handled: 0,
        }
    }

    /// Counts what is lost or repeated, and balances the ledger, so that the guest goes on.
    pub fn audit(&mut self, shared: &Shared, events: &Events, note: &mut dyn FnMut(&str)) {
        self.handled = 0;
        for target in 0..self.vcpus {
            for source in 0..LEDGER_SOURCES {
                let mut account = shared.survival.ledgers[target].account(source);
                if source >= LEDGER_VCPUS {
                    account.sent = events.sent(target, source);
                }
                self.handled += account.handled;
                if let Some(what) =
                    self.judge(target * LEDGER_SOURCES + source, account, Instant::now())
                {
                    note(&format!(
                        "{what}: vCPU {target}, vector {:#x}: {account:?}, {:?}",
                        usize::from(LEDGER_VECTORS) + source,
                        shared.descriptors[target]
                    ));
                    let place = &shared.survival.ledgers[target].handled[source];
                    place.value.store(account.sent, SeqCst);
                }
            }
        }
    }

    /// Says what is wrong with an account, if that is known by now, and counts it.
    fn judge(&mut self, index: usize, account: Account, now: Instant) -> Option<&'static str> {
        let (sent, since) = &mut self.since[index];
        if account.missing() == 0 || *sent != account.sent {
            *since = now;
        }
        *sent = account.sent;
        if account.repeated() != 0 {
            self.twice += account.repeated();
            return Some("twice");
        }
        if account.missing() != 0 && now.saturating_duration_since(*since) > self.patience {
            self.lost += account.missing();
            return Some("lost");
        }
        None
    }

    /// What has been found.
    pub fn text(&self) -> String {
        format!(
            "{} interrupts handled, {} lost, {} twice",
            self.handled, self.lost, self.twice
        )
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

    #[test]
    fn what_is_late_is_lost_and_what_is_more_than_sent_came_twice() {
        const PATIENCE: Duration = Duration::from_secs(1);

        let mut auditor = Auditor::new(2, PATIENCE);
        let account = |sent, handled| Account { sent, handled };
        let begin = Instant::now();
        let late = begin + PATIENCE + Duration::from_millis(1);
        assert_eq!(auditor.judge(0, account(3, 3), begin), None);
        assert_eq!(auditor.judge(0, account(4, 3), begin), None);
        assert_eq!(auditor.judge(0, account(4, 3), begin + PATIENCE), None);
        assert_eq!(auditor.judge(0, account(4, 3), late), Some("lost"));
        assert_eq!(auditor.judge(1, account(4, 5), begin), Some("twice"));
        assert_eq!((auditor.lost, auditor.twice), (1, 1));
    }
}
