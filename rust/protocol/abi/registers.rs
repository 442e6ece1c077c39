// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The guest interface: registers by which a guest finds its host and registers descriptors.
//!
//! There are eight registers of 32 bits. [`ReadRegister`] and [`WriteRegister`] number them for all architectures. Where
//! there are I/O ports, they are those at [`BASE`] plus the [offset](ReadRegister::offset), for accesses of 32 bits.
//! Accesses of other sizes, or between registers, do nothing and read as [`ABSENT`], as do all accesses without pvirq.
//!
//! Each vCPU has its own registers, so a guest needs no lock to give a command by several writes.
//!
//! A guest registers one array of descriptors, indexed by the ID of each vCPU's interrupt controller. A second
//! registration replaces the first.

use core::fmt;

use super::descriptor::Descriptor;

/// The first port, unless the host's administrator has chosen another.
///
/// QEMU's firmware and Linux give ports from 0xd00 on to PCI devices. Below that, VMMs use those of a PC up to 0x3ff, and
/// 0x402 and 0x510 (firmware), 0x4d0 (PIC), 0x505 (pvpanic), 0x600 to 0x73f (power management), 0xa00 to 0xa1f (memory
/// hotplug) and 0xcc0 to 0xcff (hotplug of PCI devices and CPUs, and PCI configuration). QEMU, crosvm, Firecracker, Cloud
/// Hypervisor and kvmtool leave 0xb30 to 0xcbf alone, QEMU and Firecracker as far as is known; just below is AMD's SMBus
/// on physical machines.
pub const BASE: u16 = 0xb80;

/// The number of ports.
pub const LEN: u16 = 32;

/// The value of [`ReadRegister::Magic`]: "PVIQ".
pub const MAGIC: u32 = u32::from_le_bytes(*b"PVIQ");

/// The version of this interface, and of the descriptors' layout.
///
/// It changes when a guest of the old version could not go on. Other additions get a feature bit.
pub const VERSION: u16 = 1;

/// The value of a read that no host answers. No register has it.
pub const ABSENT: u32 = u32::MAX;

/// Feature: posting between vCPUs.
pub const FEATURE_POST: u32 = 1 << 0;

/// Feature: the idle call, see [`IdleEnd`](crate::IdleEnd).
pub const FEATURE_IDLE: u32 = 1 << 1;

/// Feature: the host has [epochs](ReadRegister::Epoch), and registering the registered array again changes nothing.
pub const FEATURE_EPOCH: u32 = 1 << 2;

/// The alignment of the array: the size of a descriptor, so that none crosses a page.
pub const ARRAY_ALIGN: u64 = size_of::<Descriptor>() as u64;

numbered! {
    /// A register that can be read.
    pub enum ReadRegister: u16 {
        /// [`MAGIC`].
        Magic = 0,
        /// The latest version that the host speaks.
        Version = 1,
        /// Feature bits.
        Features = 2,
        /// The largest number of descriptors that can be registered.
        MaxDescriptors = 3,
        /// The [`Status`] of this vCPU's last command.
        Status = 4,
        /// With [`FEATURE_EPOCH`], a number that no other registration has, on this host or another; 0 if there is no
        /// registration. If it is not a guest's own, the guest was restored, or the host has ended the registration.
        Epoch = 5,
    }
}

numbered! {
    /// A register that can be written.
    pub enum WriteRegister: u16 {
        /// A [`Command`], which is carried out before the write returns.
        Command = 4,
        /// The lower half of the array's guest-physical address.
        AddressLow = 5,
        /// The upper half of the address.
        AddressHigh = 6,
        /// The number of descriptors in the array.
        Count = 7,
    }
}

/// The distance between registers, in ports or bytes.
const STRIDE: u16 = 4;

impl ReadRegister {
    /// Returns the register's offset from [`BASE`].
    #[inline]
    pub const fn offset(self) -> u16 {
        self.number() * STRIDE
    }

    /// Returns the register at an offset from [`BASE`].
    pub const fn from_offset(offset: u16) -> Option<Self> {
        match offset % STRIDE {
            0 => Self::from_number(offset / STRIDE),
            _ => None,
        }
    }
}

impl WriteRegister {
    /// Returns the register's offset from [`BASE`].
    #[inline]
    pub const fn offset(self) -> u16 {
        self.number() * STRIDE
    }

    /// Returns the register at an offset from [`BASE`].
    pub const fn from_offset(offset: u16) -> Option<Self> {
        match offset % STRIDE {
            0 => Self::from_number(offset / STRIDE),
            _ => None,
        }
    }
}

numbered! {
    /// The status of a command. All but [`Status::Ok`] leave everything as it was.
    pub enum Status: u32 {
        /// The command was done, or there was none yet.
        Ok = 0,
        /// The host knows no such command.
        Unsupported = 1,
        /// The host does not speak the version that the guest asked for.
        WrongVersion = 2,
        /// The address is not a multiple of [`ARRAY_ALIGN`].
        Unaligned = 3,
        /// The array is not in RAM, or its memory has just been moved.
        NotRam = 4,
        /// The array begins in one of the VM's memory slots and ends in another.
        CrossesSlot = 5,
        /// The array is in memory that the guest cannot write.
        ReadOnly = 6,
        /// There are more descriptors than [`ReadRegister::MaxDescriptors`], or none.
        TooMany = 7,
        /// The VM has no local APICs in the kernel, so the host could not inject.
        NoLapic = 8,
        /// The host, or its limit, has no memory for this.
        NoMemory = 9,
        /// There is no registration, or no descriptor for this vCPU.
        NotRegistered = 10,
        /// Not now: the VMM logs writes to the array's memory, as it does to migrate or to save the VM.
        DirtyLogging = 11,
        /// The VMM forbids posting in this VM.
        Forbidden = 12,
        /// The array is in memory that is private to the guest.
        Private = 13,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done",
            Self::Unsupported => "no such command",
            Self::WrongVersion => "the host does not speak this version",
            Self::Unaligned => "the descriptors are not aligned",
            Self::NotRam => "the descriptors are not in RAM",
            Self::CrossesSlot => "the descriptors cross the end of a memory slot",
            Self::ReadOnly => "the descriptors are in read-only memory",
            Self::TooMany => "too many descriptors, or none",
            Self::NoLapic => "the VM has no local APICs in the kernel",
            Self::NoMemory => "the host is out of memory",
            Self::NotRegistered => "no descriptors are registered",
            Self::DirtyLogging => "not while the VMM logs writes to the descriptors' memory",
            Self::Forbidden => "the VMM forbids posting",
            Self::Private => "the descriptors are in memory that is private to the guest",
        })
    }
}

/// A command that a guest writes to [`WriteRegister::Command`].
///
/// The lower half of the word is its code. The upper half is the guest's version for [`Command::Register`], and zero for
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Registers the descriptors in the address and count registers.
    Register {
        /// The version of the interface that the guest speaks.
        version: u16,
    },
    /// Ends the registration.
    Unregister,
    /// The idle call: polls for this vCPU, until there is an event for it or it should halt. [`Status::NotRegistered`] if
    /// it has no descriptor.
    Idle,
}

impl Command {
    /// The code of [`Command::Register`].
    pub const REGISTER: u16 = 1;
    /// The code of [`Command::Unregister`].
    pub const UNREGISTER: u16 = 2;
    /// The code of [`Command::Idle`].
    pub const IDLE: u16 = 3;

    /// Decodes a guest's word, or returns the status to answer.
    pub const fn decode(word: u32) -> Result<Self, Status> {
        // The casts split the word.
        match (word as u16, (word >> 16) as u16) {
            (Self::REGISTER, version @ 1..=VERSION) => Ok(Self::Register { version }),
            (Self::REGISTER, _) => Err(Status::WrongVersion),
            (Self::UNREGISTER, 0) => Ok(Self::Unregister),
            (Self::IDLE, 0) => Ok(Self::Idle),
            _ => Err(Status::Unsupported),
        }
    }

    /// Returns the word of the command.
    #[inline]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Register { version } => ((version as u32) << 16) | Self::REGISTER as u32,
            Self::Unregister => Self::UNREGISTER as u32,
            Self::Idle => Self::IDLE as u32,
        }
    }
}

/// A guest's array of descriptors, as its registers have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// The guest-physical address.
    pub address: u64,
    /// The number of descriptors.
    pub count: u32,
}

impl Array {
    /// Handles a guest's write to a register. Commands change nothing here.
    pub fn write(&mut self, register: WriteRegister, value: u32) {
        const LOW: u64 = u32::MAX as u64;

        let value64 = u64::from(value);
        match register {
            WriteRegister::AddressLow => self.address = (self.address & !LOW) | value64,
            WriteRegister::AddressHigh => self.address = (self.address & LOW) | (value64 << 32),
            WriteRegister::Count => self.count = value,
            WriteRegister::Command => {}
        }
    }

    /// Returns the size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty array is refused")]
    pub fn len(&self) -> u64 {
        u64::from(self.count) * ARRAY_ALIGN
    }

    /// Checks everything but the VM's memory slots, and returns the size in bytes.
    ///
    /// The addresses of the first and the last byte then fit into 64 bits.
    pub fn check(&self, max_descriptors: u32) -> Result<u64, Status> {
        if self.address % ARRAY_ALIGN != 0 {
            return Err(Status::Unaligned);
        }
        if self.count == 0 || self.count > max_descriptors {
            return Err(Status::TooMany);
        }
        let len = self.len();
        match self.address.checked_add(len - 1) {
            Some(_) => Ok(len),
            None => Err(Status::NotRam),
        }
    }
}
