// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where measurements were made.

use std::{arch::x86_64::__cpuid, fs, path::PathBuf};

use nix::sys::utsname::uname;
use serde::Serialize;

use super::options::Options;
use crate::error::Error;

const CPUID_HYPERVISOR: u32 = 0x4000_0000;
const CPUID_FEATURES: u32 = 1;
const FEATURE_HYPERVISOR: u32 = 1 << 31;

/// Where measurements were made.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The host's kernel release.
    pub kernel: String,
    /// What the host itself runs on: `tcg`, `kvm`, another hypervisor's signature, or `none`.
    pub accel: String,
    /// The number of CPUs that were used.
    pub cpus: usize,
    /// The numbers of vCPUs.
    pub vcpus: Vec<usize>,
    /// The devices, in the order in which each case's rows come.
    pub devices: Vec<PathBuf>,
    /// KVM's halt_poll_ns, if it can be read.
    pub halt_poll_ns: Option<u64>,
    /// How the guest ended interrupts: `pv` (KVM's paravirtual EOI) or `x2apic`.
    pub eoi: &'static str,
    /// How often a guest was given something to do on KVM's own device.
    pub baseline_runs: u32,
    /// How often it failed at that, and was made to do it again.
    pub baseline_failures: u32,
    /// How often a CPU did what none should ([`Error::is_cpu_fault`]), on any device, and the guest was made to do it again.
    pub cpu_faults: u32,
}

impl Environment {
    /// This one, for measurements of machines with so many vCPUs.
    pub(super) fn of(options: &Options, vcpus: Vec<usize>) -> Result<Self, Error> {
        Ok(Environment {
            kernel: kernel_release()?,
            accel: accel(),
            cpus: options.cpus.len(),
            vcpus,
            devices: options.devices.clone(),
            halt_poll_ns: halt_poll_ns(),
            eoi: if options.pv_eoi { "pv" } else { "x2apic" },
            baseline_runs: 0,
            baseline_failures: 0,
            cpu_faults: 0,
        })
    }
}

/// The kernel's release.
pub fn kernel_release() -> Result<String, Error> {
    let names = uname().map_err(|errno| Error::Os("uname failed".into(), errno.into()))?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// What this machine itself runs on.
pub fn accel() -> String {
    // SAFETY: Every 64-bit CPU has CPUID.
    let features = unsafe { __cpuid(CPUID_FEATURES) };
    if features.ecx & FEATURE_HYPERVISOR == 0 {
        return "none".into();
    }
    // SAFETY: As above; the leaf exists, because there is a hypervisor.
    let leaf = unsafe { __cpuid(CPUID_HYPERVISOR) };
    let signature = [leaf.ebx, leaf.ecx, leaf.edx]
        .map(u32::to_le_bytes)
        .concat();
    match signature.as_slice() {
        b"TCGTCGTCGTCG" => "tcg".into(),
        b"KVMKVMKVM\0\0\0" => "kvm".into(),
        other => String::from_utf8_lossy(other).trim_end_matches('\0').into(),
    }
}

/// KVM's halt_poll_ns, if it can be read.
pub fn halt_poll_ns() -> Option<u64> {
    fs::read_to_string("/sys/module/kvm/parameters/halt_poll_ns")
        .ok()?
        .trim()
        .parse()
        .ok()
}
