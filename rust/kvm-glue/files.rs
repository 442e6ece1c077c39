// SPDX-License-Identifier: GPL-2.0

//! KVM's files of VMs and vCPUs.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h)

use kernel::{
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use kernel_ext::{
    fs::file::IoctlFile,
    fs::ioctl::Ioctl, //
};

/// KVM's file of a VM.
///
/// # Invariants
///
/// It is a file that KVM has made for a VM.
#[derive(Clone)]
pub struct VmFile(ARef<File>);

impl VmFile {
    /// Takes a file.
    ///
    /// # Safety
    ///
    /// It must be one that KVM has made for a VM.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: The caller vouches for it.
        Self(file)
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &ARef<File> {
        &self.0
    }

    /// Sets for how long KVM polls before a halted vCPU sleeps, at most, in ns; without a time, as KVM's parameter
    /// `halt_poll_ns` says.
    ///
    /// With a time this is `KVM_CAP_HALT_POLL`. Any context.
    pub fn set_halt_poll(&self, max_ns: Option<u32>) {
        let file = self.0.as_ptr();

        // SAFETY: By the type invariants the file is a VM's, to which it holds a reference.
        unsafe {
            crate::bindings::kvm_vm_set_halt_poll(file, max_ns.is_some(), max_ns.unwrap_or(0));
        }
    }
}

/// KVM's file of a vCPU.
///
/// # Invariants
///
/// It is a file that KVM has made for a vCPU.
pub struct VcpuFile(IoctlFile);

impl VcpuFile {
    /// Takes a file.
    ///
    /// # Safety
    ///
    /// It must be one that KVM has made for a vCPU.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: The caller vouches for it.
        Self(IoctlFile::new(file))
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Passes an ioctl on to the file, as [`FileExt::ioctl`](kernel_ext::fs::file::FileExt::ioctl) does, with
    /// less ado.
    #[inline]
    pub fn ioctl(&self, request: Ioctl<'_>) -> Result<isize> {
        self.0.ioctl(request)
    }

    /// Returns whether KVM has something for the vCPU: an interrupt, a timer, an NMI, an SMI, or INIT.
    ///
    /// Any context. Interrupts that are posted to the vCPU (APICv) and not yet moved to its local APIC count,
    /// and so does a timer that only VMX would see expire (kvm-intel's `preemption_timer`).
    #[inline]
    pub fn has_pending_event(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_has_pending_event(self.0.file().as_ptr()) }
    }

    /// Returns whether KVM lets the current task use the vCPU: it is of the process that has made the VM.
    ///
    /// Process context.
    #[inline]
    pub fn is_callers(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_callers(self.0.file().as_ptr()) }
    }

    /// Returns whether KVM completes what the vCPU has exited for when `KVM_RUN` is called next.
    ///
    /// Until then its state cannot be saved. To be asked when `KVM_RUN` has returned, before another thread may call
    /// it.
    #[inline]
    pub fn completes_on_entry(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_completes_on_entry(self.0.file().as_ptr()) }
    }

    /// Returns whether the vCPU is in protected mode, x86's long mode included.
    ///
    /// Any context. If the vCPU runs, the answer is of just now.
    pub fn is_in_protected_mode(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_in_protected_mode(self.0.file().as_ptr()) }
    }

    /// Returns whether other vCPUs, when they spin, yield to this one only for an interrupt that KVM sees.
    ///
    /// To be asked while the scheduler preempts the vCPU's thread, in
    /// [`sched_out`](kernel_ext::sched::preempt::PreemptNotified::sched_out).
    #[inline]
    pub fn yield_needs_interrupt(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_yield_needs_interrupt(self.0.file().as_ptr()) }
    }
}
