// SPDX-License-Identifier: GPL-2.0

//! x86.

use crate::files::VcpuFile;

impl VcpuFile {
    /// Returns whether the vCPU is in protected mode, x86's long mode included.
    ///
    /// Any context. If the vCPU runs, the answer may be stale.
    pub fn is_in_protected_mode(&self) -> bool {
        // SAFETY: By the type invariants this is a vCPU's file, and `self` holds a reference to it.
        unsafe { crate::bindings::kvm_vcpu_is_in_protected_mode(self.as_ptr()) }
    }
}
