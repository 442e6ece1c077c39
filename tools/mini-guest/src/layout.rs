// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Numbers that the guest and its VMM share: vectors, ports, sizes.

/// The largest number of vCPUs.
///
/// The PV IPI hypercall's bitmap holds 128, the guest's stacks are sized for this many.
pub const MAX_VCPUS: usize = 64;

/// The vector that the guest's interrupts between vCPUs use.
pub const IPI_VECTOR: u8 = 0x40;

/// The vector of the interrupts of a storm, if all senders use the same.
pub const STORM_VECTOR: u8 = IPI_VECTOR + 2;

/// The first of the vectors of the interrupts for an idle vCPU, one for each [`Source`](crate::Source).
pub const ARRIVAL_VECTORS: u8 = IPI_VECTOR + 4;

/// The first of the vectors of the interrupts of a storm, if each sender has its own.
pub const STORM_VECTORS: u8 = 0x50;

/// The vectors of devices, each of which is handled as [`IPI_VECTOR`] is.
pub const DEVICE_VECTORS: core::ops::Range<u8> = 0x90..0xd0;

/// I/O ports of the machine.
pub mod port {
    /// First port of the serial console, a 16550.
    pub const SERIAL: u16 = 0x3f8;
    /// A byte written here ends the machine, with that byte as its status.
    pub const EXIT: u16 = 0xf4;
    /// A write here says that the vCPU has finished its job. It comes back when there is another.
    pub const PARK: u16 = 0xf6;
    /// A byte written here does nothing but cross to the VMM and back.
    pub const NULL: u16 = 0xf8;
    /// A byte written here has the VMM signal its eventfd.
    pub const RING: u16 = 0xfa;
}

/// The machine's status if a CPU takes an interrupt while it has interrupts off, which no CPU does that works. Under TCG
/// that is an interrupt that the emulator delivers again.
pub const STATUS_MASKED: u8 = 3;
