// SPDX-License-Identifier: GPL-2.0

//! The real KVM.

use kernel::{
    bindings,
    fs::{
        file::flags,
        File, //
    },
    ioctl::{
        _IO,
        _IOW, //
    },
    prelude::*,
    sync::aref::ARef,
    transmute::FromBytes, //
};
use kernel_ext::fs::file::{
    self,
    FileExt, //
};

/// `KVMIO` of `include/uapi/linux/kvm.h`, as are the numbers below.
pub(crate) const KVMIO: u32 = 0xae;

pub(crate) const KVM_CREATE_VM: u32 = _IO(KVMIO, 0x01);
pub(crate) const KVM_CHECK_EXTENSION: u32 = _IO(KVMIO, 0x03);
pub(crate) const KVM_CREATE_VCPU: u32 = _IO(KVMIO, 0x41);
pub(crate) const KVM_SET_USER_MEMORY_REGION: u32 = _IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
/// Its argument begins as that of [`KVM_SET_USER_MEMORY_REGION`], and is five times as long.
pub(crate) const KVM_SET_USER_MEMORY_REGION2: u32 =
    _IOW::<[kvm_userspace_memory_region; 5]>(KVMIO, 0x49);
pub(crate) const KVM_RUN: u32 = _IO(KVMIO, 0x80);
pub(crate) const KVM_ENABLE_CAP: u32 = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);

/// The argument of `KVM_ENABLE_CAP` takes, in `args[0]`, a VM's descriptor for these capabilities.
pub(crate) const KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: u32 = 197;
pub(crate) const KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: u32 = 206;

/// This capability sets how long KVM polls before a halted vCPU sleeps, at most, in ns.
pub(crate) const KVM_CAP_HALT_POLL: u32 = 182;

/// A flag of [`kvm_userspace_memory_region`]: KVM logs which pages are written.
pub(crate) const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// Another: the guest cannot write there.
pub(crate) const KVM_MEM_READONLY: u32 = 1 << 1;
/// Another: the memory is that of a file of KVM's, which the VMM need not be able to read.
pub(crate) const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;

/// The argument of `KVM_SET_USER_MEMORY_REGION`.
#[allow(non_camel_case_types)]
#[repr(C)]
pub(crate) struct kvm_userspace_memory_region {
    pub(crate) slot: u32,
    pub(crate) flags: u32,
    pub(crate) guest_phys_addr: u64,
    pub(crate) memory_size: u64,
    pub(crate) userspace_addr: u64,
}

// SAFETY: All fields are integers, and there is no padding between them.
unsafe impl FromBytes for kvm_userspace_memory_region {}

/// The argument of `KVM_ENABLE_CAP`.
#[allow(non_camel_case_types)]
#[repr(C)]
pub(crate) struct kvm_enable_cap {
    pub(crate) cap: u32,
    pub(crate) flags: u32,
    pub(crate) args: [u64; 4],
    pub(crate) pad: [u8; 64],
}

// SAFETY: All fields are integers, and there is no padding between them.
unsafe impl FromBytes for kvm_enable_cap {}

/// The real `/dev/kvm`.
///
/// It is found once, when the module is loaded, and kept open. Whatever is mounted over `/dev/kvm`
/// later makes no difference, and KVM's vendor module stays loaded as long as this one.
pub(crate) struct Kvm {
    device: ARef<File>,
}

impl Kvm {
    const PATH: &'static CStr = c"/dev/kvm";

    /// Finds the real device.
    pub(crate) fn find() -> Result<Self> {
        let device = file::open(Self::PATH, flags::O_RDWR).map_err(|err| {
            if err == ENOENT || err == ENODEV || err == ENXIO {
                pr_err!("there is no /dev/kvm: load kvm-amd or kvm-intel first\n");
                ENODEV
            } else {
                pr_err!("cannot open /dev/kvm: error {}\n", err.to_errno());
                err
            }
        })?;

        if device.char_device() != Some((bindings::MISC_MAJOR, bindings::KVM_MINOR)) {
            pr_err!("/dev/kvm is not KVM's device: something has been mounted over it\n");
            return Err(ENODEV);
        }
        Ok(Self { device })
    }

    /// Opens the real device as `open(2)` would for the current task, with `flags` as they were
    /// given to it.
    pub(crate) fn open(&self, flags: u32) -> Result<ARef<File>> {
        // What concerns the path and the descriptor has been dealt with.
        let done = flags::O_CREAT
            | flags::O_EXCL
            | flags::O_NOCTTY
            | flags::O_DIRECTORY
            | flags::O_NOFOLLOW
            | flags::O_CLOEXEC;

        self.device.reopen(flags & !done)
    }

    /// Returns whether `file` is one that KVM has made, and that it calls `name`.
    ///
    /// KVM chooses its names, so that no other file of the same module has this one.
    pub(crate) fn made(&self, file: &File, name: &CStr) -> bool {
        file.same_owner(&self.device) && file.is_anon(name)
    }
}
