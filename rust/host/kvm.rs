// SPDX-License-Identifier: GPL-2.0

//! The real `/dev/kvm`, and the parts of its ABI that all architectures share.

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
/// Its argument begins with that of [`KVM_SET_USER_MEMORY_REGION`], and is five times as long.
pub(crate) const KVM_SET_USER_MEMORY_REGION2: u32 =
    _IOW::<[kvm_userspace_memory_region; 5]>(KVMIO, 0x49);
pub(crate) const KVM_RUN: u32 = _IO(KVMIO, 0x80);
pub(crate) const KVM_ENABLE_CAP: u32 = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);

/// For these capabilities, `args[0]` of `KVM_ENABLE_CAP` is a VM's file descriptor.
pub(crate) const KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: u32 = 197;
pub(crate) const KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: u32 = 206;

/// The capability that sets the longest time, in ns, that KVM polls before a halted vCPU sleeps.
pub(crate) const KVM_CAP_HALT_POLL: u32 = 182;

/// Flag of [`kvm_userspace_memory_region`]: KVM logs which pages are written.
pub(crate) const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// Flag: the guest cannot write to the slot.
pub(crate) const KVM_MEM_READONLY: u32 = 1 << 1;
/// Flag: a `guest_memfd` backs the slot, which the VMM may be unable to read.
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

// SAFETY: All fields are integers, without padding between them.
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

// SAFETY: All fields are integers, without padding between them.
unsafe impl FromBytes for kvm_enable_cap {}

/// The real `/dev/kvm`.
///
/// The module opens it when it is loaded, and keeps it open. A later mount over `/dev/kvm` makes no difference, and
/// KVM's vendor module stays loaded as long as this one.
pub(crate) struct Kvm {
    device: ARef<File>,
}

impl Kvm {
    const PATH: &'static CStr = c"/dev/kvm";

    /// Opens the real device.
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
            pr_err!("/dev/kvm is not KVM's device: unmount what is mounted over it\n");
            return Err(ENODEV);
        }
        Ok(Self { device })
    }

    /// Opens the real device for the current task as `open(2)` would, with the `flags` that were passed to that.
    pub(crate) fn open(&self, flags: u32) -> Result<ARef<File>> {
        // The open of `/dev/pvirq` has handled the flags that concern the path and the descriptor.
        let done = flags::O_CREAT
            | flags::O_EXCL
            | flags::O_NOCTTY
            | flags::O_DIRECTORY
            | flags::O_NOFOLLOW
            | flags::O_CLOEXEC;

        self.device.reopen(flags & !done)
    }

    /// Returns whether KVM has made `file` and named it `name`.
    ///
    /// KVM gives a name to one kind of file only, so this tells the kind.
    pub(crate) fn made(&self, file: &File, name: &CStr) -> bool {
        file.same_owner(&self.device) && file.is_anon(name)
    }
}
