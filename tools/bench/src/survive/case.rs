// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which guests are saved and restored, and where.

use std::fmt;

use mini_guest::{Mechanism, Random, LEDGER_VCPUS};
use pvirq::device::{KVM, PVIRQ};

exit_count::named! {
    /// Where a VM is saved and restored.
    Device {
        /// On KVM's own device.
        Kvm = "kvm",
        /// On pvirq's.
        Pvirq = "pvirq",
        /// On either, at random.
        Both = "both",
    }
}

impl Device {
    /// The devices' files.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Device::Kvm => &[KVM],
            Device::Pvirq => &[PVIRQ],
            Device::Both => &[KVM, PVIRQ],
        }
    }

    /// On which of them a VM goes on.
    pub(super) fn next(self, random: &mut Random) -> usize {
        random.below(self.paths().len() as u64) as usize
    }
}

/// A guest that is saved and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurviveCase {
    /// Where.
    pub devices: Device,
    /// How its vCPUs interrupt each other: natively, or by posts where there is a host.
    pub mechanism: Mechanism,
    /// How many there are.
    pub vcpus: usize,
    /// Whether the VMM reads and sets what is posted by pvirq's ioctls, after it has saved the local APICs.
    pub posted: bool,
}

impl SurviveCase {
    /// The mechanism's name in results.
    pub fn mechanism(&self) -> &'static str {
        match self.mechanism {
            Mechanism::Pvirq => "pvirq",
            _ => "x2apic",
        }
    }

    /// How the VMM saves what is posted.
    pub fn posted(&self) -> &'static str {
        match self.posted {
            false => "lapic",
            true => "posted",
        }
    }
}

impl fmt::Display for SurviveCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "survive on {} by {}, {} vCPUs ({})",
            self.devices.name(),
            self.mechanism(),
            self.vcpus,
            self.posted()
        )
    }
}

/// The cases on these devices, of machines with so many vCPUs.
pub fn survive_plan(devices: &[Device], vcpus: &[usize], posted: bool) -> Vec<SurviveCase> {
    let mut plan = Vec::new();
    for &devices in devices {
        for &vcpus in vcpus {
            for mechanism in [Mechanism::X2Apic, Mechanism::Pvirq] {
                let kinds: &[bool] = match (devices, posted) {
                    (Device::Kvm, _) | (_, false) => &[false],
                    _ => &[false, true],
                };
                plan.extend(kinds.iter().map(|&posted| SurviveCase {
                    devices,
                    mechanism,
                    vcpus: vcpus.clamp(2, LEDGER_VCPUS),
                    posted,
                }));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_are_read_and_set_only_where_there_are_any() {
        let plan = survive_plan(&Device::ALL, &[2, 4], true);
        assert_eq!(plan.len(), 2 * 2 * (1 + 2 + 2));
        assert!(plan
            .iter()
            .all(|case| !case.posted || case.devices != Device::Kvm));
        assert_eq!(
            plan[0].to_string(),
            "survive on kvm by x2apic, 2 vCPUs (lapic)"
        );
        assert!(survive_plan(&Device::ALL, &[2], false)
            .iter()
            .all(|case| !case.posted));
    }
}
