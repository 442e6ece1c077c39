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
/// KVM has made the file for a VM.
#[derive(Clone)]
pub struct VmFile(ARef<File>);

impl VmFile {
    /// Wraps a file.
    ///
    /// # Safety
    ///
    /// KVM must have made the file for a VM.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: By the safety requirement.
        Self(file)
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &ARef<File> {
        &self.0
    }

    /// Sets the longest time, in ns, that KVM polls before a halted vCPU sleeps, as `KVM_CAP_HALT_POLL` does. `None`
    /// restores KVM's parameter `halt_poll_ns`, which no capability can do. Any context.
    pub fn set_halt_poll(&self, max_ns: Option<u32>) {
        let file = self.0.as_ptr();

        // SAFETY: By the type invariants this is a VM's file, and `self` holds a reference to it.
        unsafe {
            crate::bindings::kvm_vm_set_halt_poll(file, max_ns.is_some(), max_ns.unwrap_or(0));
        }
    }
}

/// KVM's file of a vCPU.
///
/// # Invariants
///
/// KVM has made the file for a vCPU.
pub struct VcpuFile(IoctlFile);

impl VcpuFile {
    /// Wraps a file.
    ///
    /// # Safety
    ///
    /// KVM must have made the file for a vCPU.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: By the safety requirement.
        Self(IoctlFile::new(file))
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &File {
        self.0.file()
    }

    pub(crate) fn as_ptr(&self) -> *mut kernel::bindings::file {
        self.0.file().as_ptr()
    }

    /// Forwards an ioctl to the file, as [`FileExt::ioctl`](kernel_ext::fs::file::FileExt::ioctl) does, by a handler
    /// that was looked up before.
    #[inline]
    pub fn ioctl(&self, request: Ioctl<'_>) -> Result<isize> {
        self.0.ioctl(request)
    }

    /// Returns whether KVM has an event pending for the vCPU: an interrupt, an expired timer, an NMI, an SMI, or INIT.
    ///
    /// Any context. It also counts interrupts that hardware has posted and KVM has not moved yet, and a timer whose expiry
    /// only an exit of the vCPU would report.
    #[inline]
    pub fn has_pending_event(&self) -> bool {
        // SAFETY: By the type invariants this is a vCPU's file, and `self` holds a reference to it.
        unsafe { crate::bindings::kvm_vcpu_has_pending_event(self.as_ptr()) }
    }

    /// Returns whether KVM lets the current task use the vCPU: its process has made the VM, and the VM is not dead.
    /// Process context.
    #[inline]
    pub fn is_callers(&self) -> bool {
        // SAFETY: By the type invariants this is a vCPU's file, and `self` holds a reference to it.
        unsafe { crate::bindings::kvm_vcpu_is_callers(self.as_ptr()) }
    }

    /// Returns whether the next `KVM_RUN` completes the exit that the vCPU has made. Until then its state cannot be
    /// saved.
    ///
    /// Call it when `KVM_RUN` has returned, before another thread can call that.
    #[inline]
    pub fn completes_on_entry(&self) -> bool {
        // SAFETY: By the type invariants this is a vCPU's file, and `self` holds a reference to it.
        unsafe { crate::bindings::kvm_vcpu_completes_on_entry(self.as_ptr()) }
    }

    /// Returns whether spinning vCPUs yield to this one only if KVM sees an interrupt pending for it.
    ///
    /// Call it while the scheduler preempts the vCPU's thread, in
    /// [`sched_out`](kernel_ext::sched::preempt::PreemptNotified::sched_out).
    #[inline]
    pub fn yield_needs_interrupt(&self) -> bool {
        // SAFETY: By the type invariants this is a vCPU's file, and `self` holds a reference to it.
        unsafe { crate::bindings::kvm_vcpu_yield_needs_interrupt(self.as_ptr()) }
    }
}
