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
        _IOR,
        _IOW, //
    },
    prelude::*,
    sync::aref::ARef,
    transmute::FromBytes, //
};
use kernel_ext::file::{
    self,
    FileExt, //
};

/// `KVMIO` of `include/uapi/linux/kvm.h`, as are the numbers below.
const KVMIO: u32 = 0xae;

pub(crate) const KVM_CREATE_VM: u32 = _IO(KVMIO, 0x01);
pub(crate) const KVM_CHECK_EXTENSION: u32 = _IO(KVMIO, 0x03);
pub(crate) const KVM_CREATE_VCPU: u32 = _IO(KVMIO, 0x41);
pub(crate) const KVM_SET_USER_MEMORY_REGION: u32 = _IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
/// Its argument begins as that of [`KVM_SET_USER_MEMORY_REGION`], and is five times as long.
pub(crate) const KVM_SET_USER_MEMORY_REGION2: u32 =
    _IOW::<[kvm_userspace_memory_region; 5]>(KVMIO, 0x49);
pub(crate) const KVM_CREATE_IRQCHIP: u32 = _IO(KVMIO, 0x60);
pub(crate) const KVM_RUN: u32 = _IO(KVMIO, 0x80);
pub(crate) const KVM_SET_SREGS: u32 = _IOW::<[u8; 312]>(KVMIO, 0x84);
/// Its argument begins as that of [`KVM_SET_SREGS`].
pub(crate) const KVM_SET_SREGS2: u32 = _IOW::<[u8; 320]>(KVMIO, 0xcd);
pub(crate) const KVM_GET_LAPIC: u32 = _IOR::<[u8; 1024]>(KVMIO, 0x8e);
pub(crate) const KVM_SET_LAPIC: u32 = _IOW::<[u8; 1024]>(KVMIO, 0x8f);
pub(crate) const KVM_GET_MP_STATE: u32 = _IOR::<u32>(KVMIO, 0x98);
pub(crate) const KVM_GET_VCPU_EVENTS: u32 = _IOR::<[u8; 64]>(KVMIO, 0x9f);
pub(crate) const KVM_ENABLE_CAP: u32 = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);
pub(crate) const KVM_SIGNAL_MSI: u32 = _IOW::<[u8; 32]>(KVMIO, 0xa5);

/// The argument of `KVM_ENABLE_CAP` takes, in `args[0]`, a VM's descriptor for these capabilities.
pub(crate) const KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: u32 = 197;
pub(crate) const KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: u32 = 206;

/// With this capability there are local APICs in the kernel, as with [`KVM_CREATE_IRQCHIP`].
pub(crate) const KVM_CAP_SPLIT_IRQCHIP: u32 = 121;

/// With this capability, and this bit in `args[0]`, messages can have APIC IDs of 32 bits.
pub(crate) const KVM_CAP_X2APIC_API: u32 = 129;
pub(crate) const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
/// With this bit as well, the ID 255 is that of one APIC.
pub(crate) const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;

/// This capability sets how long KVM polls before a halted vCPU sleeps, at most, in ns.
pub(crate) const KVM_CAP_HALT_POLL: u32 = 182;

/// The offset of `cr0` in the arguments of [`KVM_SET_SREGS`] and [`KVM_SET_SREGS2`].
pub(crate) const SREGS_CR0: usize = 224;
/// `CR0.PE`: protected mode, in which no CPU is after a reset.
pub(crate) const CR0_PE: u64 = 1 << 0;

/// The type of VM that [`KVM_CREATE_VM`] makes of the argument 0. The others keep their memory from the host.
pub(crate) const KVM_X86_DEFAULT_VM: usize = 0;

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
