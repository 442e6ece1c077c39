// SPDX-License-Identifier: GPL-2.0

//! What differs by architecture: the contracts, and the architecture that this module is built for.
//!
//! This is the only file with `cfg(target_arch)`. Another architecture is a folder below `arch/` and a line here. How the
//! kernel's functions that send interrupts are replaced, and how a CPU idles, is in `kernel_ext_cpu`.

use kernel::{
    cpu::CpuId,
    prelude::*, //
};
use kernel_ext_cpu::cpuidle::Idle;
use pvirq_protocol::Vectors;

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{
    receive::Received,
    registers::Registers,
    Addresses, //
};

/// How the host's registers are accessed, by their offsets in [`pvirq_protocol::registers`].
pub(crate) trait RegisterIo: Sized {
    /// Claims the registers at `place`, a parameter of the module.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there can be none at this place, `EBUSY` if it is in use. The log says why.
    fn claim(place: u16) -> Result<Self>;

    /// Reads a register. Any context.
    fn read(&self, offset: u16) -> u32;

    /// Writes a register. Any context.
    fn write(&self, offset: u16, value: u32);

    /// Writes a register with interrupts on until the write returns, as a CPU halts.
    fn write_idle(&self, idle: &Idle, offset: u16, value: u32);
}

/// How a CPU handles vectors that it has drained from its own descriptor while it was idle.
pub(crate) trait Receive {
    /// Handles them.
    fn receive(idle: &Idle, vectors: Vectors);
}

/// How vCPUs are numbered in the array of descriptors.
pub(crate) trait CpuAddress {
    /// Returns the index of a CPU's descriptor; nothing if the CPU has not been plugged in yet. Any context.
    fn index_of(cpu: CpuId) -> Option<u32>;
}
