// SPDX-License-Identifier: GPL-2.0 OR MIT

//! KVM's paravirtual features, as CPUID tells guests.

use kvm_bindings::CpuId;

const CPUID_KVM_FEATURES: u32 = 0x4000_0001;

/// KVM's paravirtual features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmFeatures(u32);

impl KvmFeatures {
    const PV_EOI: u32 = 1 << 6;
    const PV_SEND_IPI: u32 = 1 << 11;

    /// Finds them in CPUID.
    pub fn from_cpuid(cpuid: &CpuId) -> Self {
        let leaf = cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == CPUID_KVM_FEATURES);
        KvmFeatures(leaf.map_or(0, |entry| entry.eax))
    }

    /// `KVM_FEATURE_PV_EOI`: the end of an interrupt without an exit.
    pub fn pv_eoi(self) -> bool {
        self.0 & Self::PV_EOI != 0
    }

    /// `KVM_FEATURE_PV_SEND_IPI`: the hypercall that sends an interrupt to many vCPUs.
    pub fn pv_send_ipi(self) -> bool {
        self.0 & Self::PV_SEND_IPI != 0
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn features_are_bits_of_one_leaf() {
        let entry = |function, eax| kvm_cpuid_entry2 {
            function,
            eax,
            ..Default::default()
        };
        let cpuid =
            CpuId::from_entries(&[entry(1, u32::MAX), entry(CPUID_KVM_FEATURES, 1 << 11)]).unwrap();
        let features = KvmFeatures::from_cpuid(&cpuid);
        assert!(features.pv_send_ipi() && !features.pv_eoi());
        assert_eq!(
            KvmFeatures::from_cpuid(&CpuId::from_entries(&[]).unwrap()),
            KvmFeatures::default()
        );
    }
}
