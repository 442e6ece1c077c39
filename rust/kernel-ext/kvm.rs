// SPDX-License-Identifier: GPL-2.0

//! What KVM's own files tell other modules.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h)

use kernel::{
    fs::File,
    sync::aref::ARef, //
};

/// KVM's file of a vCPU.
///
/// # Invariants
///
/// It is a file that KVM has made for a vCPU.
pub struct VcpuFile(ARef<File>);

impl VcpuFile {
    /// Takes a file.
    ///
    /// # Safety
    ///
    /// It must be one that KVM has made for a vCPU.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: The caller vouches for it.
        Self(file)
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Returns whether KVM wants the vCPU to look: for an interrupt, a timer, an NMI, an SMI, or INIT.
    ///
    /// Any context. Interrupts that hardware posts to a vCPU (APICv, AVIC) are not seen, nor is a
    /// timer of VMX's own (kvm-intel's `preemption_timer`).
    #[inline]
    pub fn is_wanted(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_wanted(self.0.as_ptr()) }
    }
}
