// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The guest interface: how a guest finds its host and tells it where its descriptors are.
//!
//! It is eight registers of 32 bits. [`ReadRegister`] and [`WriteRegister`] number them without
//! saying how they are reached. On x86 that is by port I/O: `in` and `out` of 32 bits at
//! [`BASE`] plus the register's [offset](ReadRegister::offset). Accesses of other sizes, or between
//! registers, do nothing, and read as [`ABSENT`], as all of it does without pvirq.
//!
//! Each vCPU has registers of its own: what one writes is not seen by another, so that no lock is
//! needed to make a command of several writes.
//!
//! A guest registers one array of descriptors, whose index is the vCPU's (x2)APIC ID. A second
//! registration replaces the first.

use core::fmt;

use super::descriptor::Descriptor;

/// The first port, unless the host's administrator has chosen another.
///
/// Ports from 0xd00 on are given to PCI devices, by QEMU's firmware as by Linux. Below that, VMMs
/// use the PC's own up to 0x3ff, and 0x402 and 0x510 (firmware), 0x4d0 (PIC), 0x505 (pvpanic),
/// 0x600 to 0x73f (power management), 0xa00 to 0xa1f (hotplug of memory) and 0xcc0 to 0xcff (hotplug
/// of PCI devices and CPUs, and PCI configuration). QEMU, crosvm, Firecracker, Cloud Hypervisor and
/// kvmtool all leave 0xb30 to 0xcbf alone, the first and the third as far as is known; below it is
/// AMD's SMBus on physical machines.
pub const BASE: u16 = 0xb80;

/// The number of ports.
pub const LEN: u16 = 32;

/// What [`ReadRegister::Magic`] gives: "PVIQ".
pub const MAGIC: u32 = u32::from_le_bytes(*b"PVIQ");

/// The version of this interface, and of the descriptors' layout.
///
/// It changes when a guest of the old version could not go on. What is added without that gets a
/// feature bit.
pub const VERSION: u16 = 1;

/// What a read gives where nobody answers. No register has this value.
pub const ABSENT: u32 = u32::MAX;

/// Feature: posting between vCPUs.
pub const FEATURE_POST: u32 = 1 << 0;

/// Feature: the idle call, see [`IdleEnd`](crate::IdleEnd).
pub const FEATURE_IDLE: u32 = 1 << 1;

/// Feature: the host tells which registration it has, see [`ReadRegister::Epoch`], and to register what is
/// registered already changes nothing.
pub const FEATURE_EPOCH: u32 = 1 << 2;

/// The alignment of the array of descriptors. Its size is the descriptor's, so none crosses a page.
pub const ARRAY_ALIGN: u64 = size_of::<Descriptor>() as u64;

numbered! {
    /// A register as it is read.
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
        /// With [`FEATURE_EPOCH`], a number that no other registration has, on this host or another; 0 if there is
        /// no registration. A guest that finds another than its own has been restored, or its host has
        /// closed the registration.
        Epoch = 5,
    }
}

numbered! {
    /// A register as it is written.
    pub enum WriteRegister: u16 {
        /// A [`Command`], which is carried out before the write returns.
        Command = 4,
        /// The lower half of the array's guest-physical address.
        AddressLow = 5,
        /// The upper half of it.
        AddressHigh = 6,
        /// The number of descriptors in the array.
        Count = 7,
    }
}

/// The distance between registers, in ports or bytes.
const STRIDE: u16 = 4;

impl ReadRegister {
    /// Its offset from [`BASE`].
    #[inline]
    pub const fn offset(self) -> u16 {
        self.number() * STRIDE
    }

    /// The one at an offset from [`BASE`].
    pub const fn from_offset(offset: u16) -> Option<Self> {
        match offset % STRIDE {
            0 => Self::from_number(offset / STRIDE),
            _ => None,
        }
    }
}

impl WriteRegister {
    /// Its offset from [`BASE`].
    #[inline]
    pub const fn offset(self) -> u16 {
        self.number() * STRIDE
    }

    /// The one at an offset from [`BASE`].
    pub const fn from_offset(offset: u16) -> Option<Self> {
        match offset % STRIDE {
            0 => Self::from_number(offset / STRIDE),
            _ => None,
        }
    }
}

numbered! {
    /// What became of a command. All but [`Status::Ok`] leave everything as it was.
    pub enum Status: u32 {
        /// It was done, or none has been given yet.
        Ok = 0,
        /// The host knows no such command.
        Unsupported = 1,
        /// The host does not speak the version that the guest asked for.
        WrongVersion = 2,
        /// The address is not a multiple of [`ARRAY_ALIGN`].
        Unaligned = 3,
        /// The array is not in RAM.
        NotRam = 4,
        /// The array begins in one of the VM's memory slots and ends in another.
        CrossesSlot = 5,
        /// The array is in memory that the guest cannot write.
        ReadOnly = 6,
        /// There are more descriptors than [`ReadRegister::MaxDescriptors`], or none.
        TooMany = 7,
        /// The VM has no local APICs in the kernel, so the host could not inject.
        NoLapic = 8,
        /// The host has no memory for this.
        NoMemory = 9,
        /// There is no registration.
        NotRegistered = 10,
        /// Not now: the VMM logs which pages of this memory are written, as it does to migrate or to save the VM.
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

/// What a guest writes to [`WriteRegister::Command`].
///
/// The lower half of the word says what to do. The upper half is the version that the guest speaks
/// where descriptors are registered, and zero elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Use the descriptors that the address and count registers name.
    Register {
        /// The version of the interface that the guest speaks.
        version: u16,
    },
    /// Use no descriptors any more.
    Unregister,
    /// Poll on this vCPU's behalf, until there is something for it or the host thinks that it should
    /// sleep. [`Status::NotRegistered`] if it has no descriptor.
    Idle,
}

impl Command {
    /// The code of [`Command::Register`].
    pub const REGISTER: u16 = 1;
    /// The code of [`Command::Unregister`].
    pub const UNREGISTER: u16 = 2;
    /// The code of [`Command::Idle`].
    pub const IDLE: u16 = 3;

    /// What a guest's word asks for, or what to answer.
    pub const fn decode(word: u32) -> Result<Self, Status> {
        // The casts cut the word in two.
        match (word as u16, (word >> 16) as u16) {
            (Self::REGISTER, version @ 1..=VERSION) => Ok(Self::Register { version }),
            (Self::REGISTER, _) => Err(Status::WrongVersion),
            (Self::UNREGISTER, 0) => Ok(Self::Unregister),
            (Self::IDLE, 0) => Ok(Self::Idle),
            _ => Err(Status::Unsupported),
        }
    }

    /// The word that asks for it.
    #[inline]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Register { version } => ((version as u32) << 16) | Self::REGISTER as u32,
            Self::Unregister => Self::UNREGISTER as u32,
            Self::Idle => Self::IDLE as u32,
        }
    }
}

/// Where a guest's descriptors are, as its registers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// The guest-physical address.
    pub address: u64,
    /// The number of descriptors.
    pub count: u32,
}

impl Array {
    /// Takes what a guest writes to one of its registers. A command changes nothing here.
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

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "an empty array is refused")]
    pub fn len(&self) -> u64 {
        u64::from(self.count) * ARRAY_ALIGN
    }

    /// Checks all that does not take the VM's memory slots, and says how many bytes it has.
    ///
    /// The first and the last byte have an address of 64 bits each.
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
