// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ground of a measurement: what runs the CPUs of this machine.
//!
//! The test VM names its ground on the kernel's command line, because an emulator need not show that it is one: Bochs has
//! no hypervisor bit. Elsewhere CPUID's hypervisor leaf says it.

use std::{arch::x86_64::__cpuid, fmt, fs};

use serde::{Serialize, Serializer};

/// The argument of the kernel by which the test VM names its ground.
const ARGUMENT: &str = "testvm.ground=";

const CPUID_FEATURES: u32 = 1;
const FEATURE_HYPERVISOR: u32 = 1 << 31;
const CPUID_HYPERVISOR: u32 = 0x4000_0000;

/// A hypervisor's name for itself in CPUID.
type Signature = [u8; 12];

/// What runs the CPUs of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// QEMU's emulator: exit counts are exact, times mean little.
    QemuTcg,
    /// The Bochs emulator: exit counts are exact, and time is a number of instructions.
    Bochs,
    /// A virtual machine on KVM, so that this machine's guests are nested.
    KvmNested,
    /// A virtual machine on another hypervisor, by its signature, or a ground that this version does not know.
    Other(String),
    /// No hypervisor.
    Hardware,
}

impl Ground {
    /// This machine's.
    pub fn detect() -> Self {
        let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Self::find(&arguments, hypervisor().as_ref())
    }

    /// The CPUs for a guest that uses all of its vCPUs at once: those given, or under TCG, where guests fail whose vCPUs run
    /// in parallel (`Documentation/smp-guests.rst`), the last of them for all.
    pub fn place(self, mut cpus: Vec<usize>) -> Vec<usize> {
        if self == Ground::QemuTcg {
            let last = cpus.last().copied().unwrap_or(0);
            cpus.fill(last);
        }
        cpus
    }

    /// The ground that the kernel's arguments name, or else the hypervisor's.
    fn find(arguments: &str, hypervisor: Option<&Signature>) -> Self {
        let named = arguments
            .split_ascii_whitespace()
            .filter_map(|argument| argument.strip_prefix(ARGUMENT));
        // The last one counts, as for the kernel's own.
        match (named.last(), hypervisor) {
            (Some(name), _) => Self::from_name(name),
            (None, Some(signature)) => Self::from_signature(signature),
            (None, None) => Ground::Hardware,
        }
    }

    fn from_name(name: &str) -> Self {
        [
            Ground::QemuTcg,
            Ground::Bochs,
            Ground::KvmNested,
            Ground::Hardware,
        ]
        .into_iter()
        .find(|ground| ground.name() == name)
        .unwrap_or_else(|| Ground::Other(name.into()))
    }

    fn from_signature(signature: &Signature) -> Self {
        match signature {
            b"TCGTCGTCGTCG" => Ground::QemuTcg,
            b"KVMKVMKVM\0\0\0" => Ground::KvmNested,
            other => Ground::Other(
                String::from_utf8_lossy(other)
                    .trim_end_matches('\0')
                    .trim()
                    .into(),
            ),
        }
    }

    /// Its name in results.
    pub fn name(&self) -> &str {
        match self {
            Ground::QemuTcg => "qemu-tcg",
            Ground::Bochs => "bochs",
            Ground::KvmNested => "kvm-nested",
            Ground::Hardware => "hardware",
            Ground::Other(name) => name,
        }
    }

    /// Its name in the field `accel` of results, which is older than [`Ground`].
    pub fn accel(&self) -> &str {
        match self {
            Ground::QemuTcg => "tcg",
            Ground::KvmNested => "kvm",
            Ground::Hardware => "none",
            Ground::Bochs | Ground::Other(_) => self.name(),
        }
    }

    /// Whether the time stamp counter advances by one for each instruction of a running CPU.
    pub fn counts_instructions(&self) -> bool {
        *self == Ground::Bochs
    }

    /// What the time stamp counter counts.
    pub fn unit(&self) -> &'static str {
        match self.counts_instructions() {
            true => "instructions",
            false => "cycles",
        }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Ground {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The hypervisor's signature, if CPUID says that there is one.
fn hypervisor() -> Option<Signature> {
    // SAFETY: Every 64-bit CPU has CPUID.
    let features = unsafe { __cpuid(CPUID_FEATURES) };
    if features.ecx & FEATURE_HYPERVISOR == 0 {
        return None;
    }
    // SAFETY: As above; the leaf exists, because there is a hypervisor.
    let leaf = unsafe { __cpuid(CPUID_HYPERVISOR) };
    let mut signature = Signature::default();
    for (bytes, register) in signature
        .chunks_exact_mut(4)
        .zip([leaf.ebx, leaf.ecx, leaf.edx])
    {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    Some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: &Signature = b"KVMKVMKVM\0\0\0";
    const TCG: &Signature = b"TCGTCGTCGTCG";

    #[test]
    fn the_command_line_names_the_ground() {
        let named = |arguments| Ground::find(arguments, None);
        assert_eq!(
            named("quiet testvm.ground=bochs testvm.run=x\n"),
            Ground::Bochs
        );
        assert_eq!(named("testvm.ground=qemu-tcg"), Ground::QemuTcg);
        assert_eq!(named("testvm.ground=kvm-nested\n"), Ground::KvmNested);
        assert_eq!(named("a.testvm.ground=bochs"), Ground::Hardware);
        assert_eq!(
            named("testvm.ground=qemu-tcg testvm.ground=bochs"),
            Ground::Bochs
        );
        assert_eq!(
            named("testvm.ground=another"),
            Ground::Other("another".into())
        );
        // The hypervisor bit says less than the test VM.
        assert_eq!(
            Ground::find("testvm.ground=bochs", Some(TCG)),
            Ground::Bochs
        );
    }

    #[test]
    fn elsewhere_the_hypervisor_is_the_ground() {
        let found = |signature| Ground::find("root=/dev/vda1 quiet\n", signature);
        assert_eq!(found(Some(TCG)), Ground::QemuTcg);
        assert_eq!(found(Some(KVM)), Ground::KvmNested);
        assert_eq!(found(None), Ground::Hardware);
        assert_eq!(
            found(Some(b"Microsoft Hv")),
            Ground::Other("Microsoft Hv".into())
        );
        assert_eq!(
            found(Some(b" lrpepyh  vr")).name(),
            "lrpepyh  vr",
            "Parallels pads its signature"
        );
    }

    #[test]
    fn names_are_those_of_results() {
        for ground in ["qemu-tcg", "bochs", "kvm-nested", "hardware", "another"] {
            let json = serde_json::to_value(Ground::from_name(ground)).unwrap();
            assert_eq!(json, ground);
        }
        let accel = ["qemu-tcg", "bochs", "kvm-nested", "hardware"]
            .map(|name| Ground::from_name(name).accel().to_owned());
        assert_eq!(accel, ["tcg", "bochs", "kvm", "none"]);
    }

    #[test]
    fn vcpus_share_a_cpu_under_tcg_alone() {
        assert_eq!(Ground::QemuTcg.place(vec![0, 1, 2]), [2, 2, 2]);
        assert_eq!(Ground::Bochs.place(vec![0, 1, 2]), [0, 1, 2]);
    }

    #[test]
    fn only_bochs_counts_instructions() {
        assert_eq!(Ground::Bochs.unit(), "instructions");
        for ground in [Ground::QemuTcg, Ground::KvmNested, Ground::Hardware] {
            assert_eq!(ground.unit(), "cycles");
        }
    }
}
