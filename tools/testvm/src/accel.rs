// SPDX-License-Identifier: GPL-2.0

//! How the machine's CPUs run.

use std::fmt;

use anyhow::{bail, Result};
use clap::ValueEnum;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;

/// What runs the machine's CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if it can nest, else TCG
    Auto,
    /// The host's KVM; its guests must have SVM or VMX
    Kvm,
    /// QEMU's emulator, which has SVM
    Tcg,
}

impl Accel {
    /// Decides what `Auto` means on this host.
    ///
    /// # Errors
    ///
    /// `Kvm` was asked for, and the host has none or it cannot nest.
    pub fn resolve(self) -> Result<Self> {
        match (self, nested_kvm()) {
            (Self::Tcg, _) => Ok(Self::Tcg),
            (Self::Kvm | Self::Auto, Ok(())) => Ok(Self::Kvm),
            (Self::Auto, Err(_)) => Ok(Self::Tcg),
            (Self::Kvm, Err(why)) => {
                bail!("cannot use the host's KVM: {why}; --accel tcg always works")
            }
        }
    }

    /// The name by which results tell what ran the machine's CPUs, once that has been decided.
    pub fn ground(self) -> &'static str {
        match self {
            Self::Kvm => "kvm-nested",
            Self::Auto | Self::Tcg => "qemu-tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "KVM, hardware-nested",
            Self::Tcg => "TCG",
        })
    }
}

/// Whether guests of the host's KVM can run KVM themselves; if not, why.
///
/// KVM's own CPUID table is the authority: it shows SVM or VMX only if nesting is both possible and switched on.
fn nested_kvm() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| format!("KVM_GET_SUPPORTED_CPUID: {error}"))?;
    let has = |function: u32, bit: u32| {
        cpuid
            .as_slice()
            .iter()
            .any(|leaf| leaf.function == function && leaf.ecx & (1 << bit) != 0)
    };
    let (vmx, svm) = (has(1, 5), has(0x8000_0001, 2));
    if vmx || svm {
        Ok(())
    } else {
        Err("its guests have neither VMX nor SVM".into())
    }
}
