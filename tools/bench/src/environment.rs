// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where measurements were made.

use std::{fmt, fs, path::PathBuf};

use exit_count::kvm_module::{Parameters, Vendor};
use nix::sys::utsname::uname;
use serde::Serialize;
use vmm::error::Error;

use crate::{
    ground::Ground,
    session::{Failures, Session},
};

/// Where measurements were made.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The host's kernel release.
    pub kernel: String,
    /// What runs the host's CPUs.
    pub ground: Ground,
    /// The ground by its older name: `tcg`, `kvm`, another hypervisor's signature, or `none`.
    pub accel: String,
    /// The vendor of the CPU's virtualisation, if it has any.
    pub vendor: Option<Vendor>,
    /// Whether the host's KVM uses the CPU's virtual interrupt controller (APICv or AVIC), if that can be told.
    pub apicv: Option<bool>,
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
    /// How guests fared.
    #[serde(flatten)]
    pub failures: Failures,
}

impl Environment {
    /// This host, for measurements of machines with so many vCPUs.
    pub(crate) fn new(
        session: &Session,
        vcpus: Vec<usize>,
        devices: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        Ok(Environment {
            kernel: kernel_release()?,
            accel: session.ground.accel().into(),
            ground: session.ground.clone(),
            vendor: Vendor::detect(),
            apicv: Parameters::detect().virtual_apic,
            cpus: session.cpus.len(),
            vcpus,
            devices,
            halt_poll_ns: halt_poll_ns(),
            eoi: if session.pv_eoi { "pv" } else { "x2apic" },
            failures: Failures::default(),
        })
    }
}

impl fmt::Display for Environment {
    /// What a table's first line says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ground: {}", self.ground)?;
        if let Some(vendor) = self.vendor {
            let apic = vendor.virtual_apic();
            write!(f, ", {}", vendor.module())?;
            match self.apicv {
                Some(true) => write!(f, " with {apic}")?,
                Some(false) => write!(f, " without {apic}")?,
                None => {}
            }
        }
        write!(f, ", {} CPUs, Linux {}.", self.cpus, self.kernel)
    }
}

/// The kernel's release.
pub fn kernel_release() -> Result<String, Error> {
    let names = uname().map_err(|errno| Error::Os("uname failed".into(), errno.into()))?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// KVM's halt_poll_ns, if it can be read.
pub(crate) fn halt_poll_ns() -> Option<u64> {
    fs::read_to_string("/sys/module/kvm/parameters/halt_poll_ns")
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(cpus: &str) -> Result<Environment, Error> {
        let session = Session::new(cpus.parse().unwrap(), true);
        Environment::new(&session, vec![2], Vec::new())
    }

    #[test]
    fn the_ground_is_told_in_a_line() -> Result<(), Error> {
        let mut environment = Environment {
            kernel: "7.3".into(),
            ground: Ground::Bochs,
            vendor: Some(Vendor::Vmx),
            apicv: Some(false),
            ..here("0-1")?
        };
        assert_eq!(
            environment.to_string(),
            "Ground: bochs, kvm_intel without APICv, 2 CPUs, Linux 7.3."
        );
        environment.apicv = Some(true);
        assert!(environment.to_string().contains("kvm_intel with APICv"));
        environment.vendor = None;
        assert_eq!(environment.to_string(), "Ground: bochs, 2 CPUs, Linux 7.3.");
        Ok(())
    }

    #[test]
    fn results_have_the_ground_the_vendor_and_the_interrupt_controller() -> Result<(), Error> {
        let environment = Environment {
            ground: Ground::QemuTcg,
            vendor: Some(Vendor::Svm),
            apicv: None,
            ..here("0")?
        };
        let json = serde_json::to_value(&environment).expect("it has only strings and numbers");
        assert_eq!(json["ground"], "qemu-tcg");
        assert_eq!(json["vendor"], "amd");
        // Not left out: a reader can tell "unknown" from an older file.
        assert_eq!(json.get("apicv"), Some(&serde_json::Value::Null));
        Ok(())
    }
}
