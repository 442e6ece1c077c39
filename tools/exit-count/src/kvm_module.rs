// SPDX-License-Identifier: GPL-2.0 OR MIT

//! KVM's module for the CPU's vendor, and what its parameters say.

use std::{fs, path::Path};

use serde::{Serialize, Serializer};

/// The vendor of the CPU's virtualisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD's SVM.
    Svm,
    /// Intel's VMX.
    Vmx,
}

impl Vendor {
    /// The vendor by the CPU's flags in `/proc/cpuinfo`, if the CPU can run guests.
    pub fn find(cpuinfo: &str) -> Option<Self> {
        let (_, flags) = cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == "flags")?;
        flags.split_whitespace().find_map(|flag| match flag {
            "svm" => Some(Vendor::Svm),
            "vmx" => Some(Vendor::Vmx),
            _ => None,
        })
    }

    /// This machine's.
    pub fn detect() -> Option<Self> {
        Self::find(&fs::read_to_string("/proc/cpuinfo").ok()?)
    }

    /// The name of KVM's module for it.
    pub fn module(self) -> &'static str {
        match self {
            Vendor::Svm => "kvm_amd",
            Vendor::Vmx => "kvm_intel",
        }
    }

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Vendor::Svm => "amd",
            Vendor::Vmx => "intel",
        }
    }

    /// Its virtual interrupt controller.
    pub fn virtual_apic(self) -> &'static str {
        match self {
            Vendor::Svm => "AVIC",
            Vendor::Vmx => "APICv",
        }
    }
}

impl Serialize for Vendor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What the module's parameters say; nothing where they cannot tell.
///
/// KVM switches off what the CPU lacks, so a parameter says what is in use, not what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Whether guests can run guests of their own.
    pub nested: Option<bool>,
    /// Whether the CPU's virtual interrupt controller (APICv or AVIC) delivers interrupts.
    pub virtual_apic: Option<bool>,
    /// Whether it also sends them.
    pub virtual_ipi: Option<bool>,
    /// Whether a vCPU exits that executes PAUSE in a loop.
    pub pause_exits: Option<bool>,
    /// Whether VMX's preemption timer is in use; nothing for SVM, which has none.
    pub preemption_timer: Option<bool>,
}

impl Parameters {
    /// Those of the vendor's module, by the files below `root`.
    pub fn read(root: &Path, vendor: Vendor) -> Self {
        let directory = root
            .join("sys/module")
            .join(vendor.module())
            .join("parameters");
        let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let switch = |name| switch(&text(name)?);
        let number = |name| text(name)?.trim().parse::<u32>().ok();

        let virtual_apic = switch(match vendor {
            Vendor::Svm => "avic",
            Vendor::Vmx => "enable_apicv",
        });
        let virtual_ipi = match (vendor, switch("enable_ipiv")) {
            // AVIC always sent interrupts before it had this switch.
            (Vendor::Svm, None) => virtual_apic,
            (_, virtual_ipi) => virtual_ipi,
        };
        Parameters {
            nested: switch("nested"),
            virtual_apic,
            virtual_ipi: match virtual_apic {
                Some(false) => Some(false),
                _ => virtual_ipi,
            },
            pause_exits: number(match vendor {
                Vendor::Svm => "pause_filter_count",
                Vendor::Vmx => "ple_gap",
            })
            .map(|number| number != 0),
            preemption_timer: switch("preemption_timer"),
        }
    }

    /// Those of this machine's module.
    pub fn detect() -> Self {
        Vendor::detect()
            .map(|vendor| Self::read(Path::new("/"), vendor))
            .unwrap_or_default()
    }
}

/// Reads a parameter that is a switch.
fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        // Not a switch.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vendor: Vendor, parameters: &[(&str, &str)]) -> Parameters {
        let root = tempfile::tempdir().unwrap();
        let directory = root
            .path()
            .join("sys/module")
            .join(vendor.module())
            .join("parameters");
        fs::create_dir_all(&directory).unwrap();
        for (name, value) in parameters {
            fs::write(directory.join(name), value).unwrap();
        }
        Parameters::read(root.path(), vendor)
    }

    #[test]
    fn flags_tell_the_vendor() {
        let vendor = |flags| Vendor::find(&format!("processor\t: 0\nflags\t\t: {flags}\n"));
        assert_eq!(vendor("fpu svm lm"), Some(Vendor::Svm));
        assert_eq!(vendor("fpu vmx lm"), Some(Vendor::Vmx));
        assert_eq!(vendor("fpu lm"), None);
        assert_eq!(
            Vendor::find("vmx flags\t: vmx_ept\nvmx flags : vmx\n"),
            None
        );
        assert_eq!(serde_json::to_value(Vendor::Vmx).unwrap(), "intel");
        assert_eq!(serde_json::to_value(Vendor::Svm).unwrap(), "amd");
    }

    #[test]
    fn intel_has_three_kinds_of_interrupt_controllers() {
        let apic = |apicv, ipiv| {
            let parameters = read(
                Vendor::Vmx,
                &[("enable_apicv", apicv), ("enable_ipiv", ipiv)],
            );
            (parameters.virtual_apic, parameters.virtual_ipi)
        };
        assert_eq!(apic("N\n", "N\n"), (Some(false), Some(false)));
        assert_eq!(apic("Y\n", "N\n"), (Some(true), Some(false)));
        assert_eq!(apic("Y\n", "Y\n"), (Some(true), Some(true)));
        // A kernel without IPI virtualisation.
        let old = read(Vendor::Vmx, &[("enable_apicv", "Y\n")]);
        assert_eq!((old.virtual_apic, old.virtual_ipi), (Some(true), None));
    }

    #[test]
    fn avic_sends_unless_it_is_told_not_to() {
        let sends = |parameters| read(Vendor::Svm, parameters).virtual_ipi;
        assert_eq!(sends(&[("avic", "Y\n")]), Some(true));
        assert_eq!(
            sends(&[("avic", "Y\n"), ("enable_ipiv", "N\n")]),
            Some(false)
        );
        assert_eq!(
            sends(&[("avic", "N\n"), ("enable_ipiv", "Y\n")]),
            Some(false)
        );
        assert_eq!(sends(&[]), None);
    }

    #[test]
    fn pause_exits_and_timers_are_the_vendors() {
        let intel = read(
            Vendor::Vmx,
            &[
                ("ple_gap", "128\n"),
                ("preemption_timer", "Y\n"),
                ("nested", "Y\n"),
            ],
        );
        assert_eq!(intel.pause_exits, Some(true));
        assert_eq!(
            (intel.preemption_timer, intel.nested),
            (Some(true), Some(true))
        );
        assert_eq!(
            read(Vendor::Vmx, &[("ple_gap", "0\n")]).pause_exits,
            Some(false)
        );

        let amd = read(
            Vendor::Svm,
            &[("pause_filter_count", "3000\n"), ("nested", "1\n")],
        );
        assert_eq!((amd.pause_exits, amd.preemption_timer), (Some(true), None));
        assert_eq!(amd.nested, Some(true));
        assert_eq!(read(Vendor::Svm, &[]), Parameters::default());
    }
}
