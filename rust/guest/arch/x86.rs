// SPDX-License-Identifier: GPL-2.0

//! x86: registers are I/O ports, and descriptors are found by APIC ID.

use kernel::cpu::CpuId;
use kernel_ext_cpu::topology::apic_id;

use super::CpuAddress;

pub(crate) mod receive;
pub(crate) mod registers;

/// APIC IDs.
pub(crate) enum Addresses {}

impl CpuAddress for Addresses {
    fn index_of(cpu: CpuId) -> Option<u32> {
        apic_id(cpu)
    }
}
