// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The device that speaks the KVM API: `/dev/kvm`, `/dev/pvirq`, or another.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use crate::{error::Error, features::KvmFeatures};

/// KVM's own device.
pub const KVM: &str = "/dev/kvm";
/// pvirq's device.
pub const PVIRQ: &str = "/dev/pvirq";

const API_VERSION: i32 = 12;

/// The capabilities that a machine needs, with KVM's names for them.
const NEEDED: [(Cap, &str); 6] = [
    (
        Cap::Irqchip,
        "KVM_CAP_IRQCHIP (interrupt controllers in the kernel)",
    ),
    (
        Cap::UserMemory,
        "KVM_CAP_USER_MEMORY (guest memory from user space)",
    ),
    (
        Cap::ExtCpuid,
        "KVM_CAP_EXT_CPUID (choice of the guest's CPUID)",
    ),
    (Cap::MpState, "KVM_CAP_MP_STATE (starting vCPUs)"),
    (
        Cap::ImmediateExit,
        "KVM_CAP_IMMEDIATE_EXIT (stopping vCPUs)",
    ),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ (the guest's clock)"),
];

/// An open device.
pub struct Device {
    path: PathBuf,
    kvm: Kvm,
}

impl Device {
    /// Opens a device and checks that it is KVM, with all that a machine needs.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::NoDevice(path.to_owned()))?;
        let kvm = Kvm::new_with_path(&name).map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR => {
                Error::NoDevice(path.to_owned())
            }
            libc::EACCES | libc::EPERM => Error::NotPermitted(path.to_owned()),
            errno => Error::Open(path.to_owned(), io::Error::from_raw_os_error(errno)),
        })?;
        let answer = match kvm.get_api_version() {
            API_VERSION => None,
            -1 => Some(io::Error::last_os_error().to_string()),
            version => Some(version.to_string()),
        };
        if let Some(answer) = answer {
            return Err(Error::NotKvm {
                device: path.to_owned(),
                answer,
            });
        }
        for (cap, name) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(Error::Lacks {
                    device: path.to_owned(),
                    what: name,
                });
            }
        }
        Ok(Device {
            path: path.to_owned(),
            kvm,
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The KVM system file.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// What CPUID may say to guests.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))
    }

    /// KVM's paravirtual features.
    pub fn features(&self) -> Result<KvmFeatures, Error> {
        Ok(KvmFeatures::from_cpuid(&self.supported_cpuid()?))
    }

    /// The largest number of vCPUs.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

/// The devices that are there: KVM's, which always counts, and pvirq's if it exists.
pub fn present() -> Vec<PathBuf> {
    let mut devices = vec![PathBuf::from(KVM)];
    devices.extend(Path::new(PVIRQ).exists().then(|| PVIRQ.into()));
    devices
}
