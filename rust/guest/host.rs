// SPDX-License-Identifier: GPL-2.0

//! The host's registers, see [`pvirq_protocol::registers`].
//!
//! # Concurrency
//!
//! Each vCPU has registers of its own, so commands need no lock. Those that take several accesses are
//! made with interrupts off, so that the CPU stays the same, and no interrupt comes in between.

use core::fmt;
use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*,
    sync::atomic::Atomic, //
};
use kernel_ext_cpu::{
    cpuidle::Idle,
    read_once::ReadOnce,
    topology, //
};
use pvirq_protocol::registers::{
    Array,
    Command,
    ReadRegister,
    Status,
    WriteRegister,
    ABSENT,
    FEATURE_EPOCH,
    FEATURE_IDLE,
    FEATURE_POST,
    MAGIC,
    VERSION, //
};

use crate::arch::{
    RegisterIo,
    Registers, //
};

/// A pvirq host.
pub(crate) struct Host {
    registers: Registers,
    /// The version to ask for.
    version: u16,
    /// The features to use.
    wanted: u32,
    /// Those of them that the host had at the last registration.
    features: Atomic<u32>,
    max_descriptors: u32,
}

/// The reason why the descriptors are not registered.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    /// There is no host, perhaps no longer.
    NoHost,
    /// The host speaks this version.
    Version(u32),
    /// The host does not offer posting.
    NoPosting,
    /// The registration has ended at once.
    Ended,
    /// The host's status.
    Status(Status),
    /// A number that is not a status.
    Number(u32),
}

impl Refusal {
    /// Returns whether the same host may take the same descriptors later.
    pub(crate) fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Ended | Self::Status(Status::DirtyLogging | Status::Forbidden | Status::NoMemory)
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("there is no pvirq host"),
            Self::Version(version) => write!(f, "the host speaks version {version}"),
            Self::NoPosting => f.write_str("the host does not offer posting"),
            Self::Ended => f.write_str("the registration has ended at once"),
            Self::Status(status) => status.fmt(f),
            Self::Number(number) => write!(f, "unknown status {number}"),
        }
    }
}

impl Host {
    /// Finds the host at port `base`, to speak `version` with it, and to use those of its features that are in `wanted`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no host, or none that can be used, `EINVAL` if `base` is not aligned. The log says why.
    pub(crate) fn find(base: u16, version: u16, wanted: u32) -> Result<Self> {
        if !topology::has_hypervisor() {
            pr_err!("no pvirq host: this is not a virtual machine\n");
            return Err(ENODEV);
        }
        let registers = Registers::claim(base)?;
        let read = |register: ReadRegister| registers.read(register.offset());

        if read(ReadRegister::Magic) != MAGIC {
            pr_err!("no pvirq host: no answer at port {base:#x}\n");
            return Err(ENODEV);
        }
        let host_version = read(ReadRegister::Version);
        if host_version < version.into() || version < VERSION {
            return Err(Self::wrong_version(host_version, version));
        }
        let features = read(ReadRegister::Features) & wanted;
        if features & FEATURE_POST == 0 {
            pr_err!("no pvirq host for us: it does not offer posting\n");
            return Err(ENODEV);
        }
        let max_descriptors = read(ReadRegister::MaxDescriptors);
        Ok(Self {
            registers,
            version,
            wanted,
            features: Atomic::new(features),
            max_descriptors,
        })
    }

    /// Logs the versions that do not match, and returns the error.
    fn wrong_version(host: u32, ours: u16) -> Error {
        pr_err!("no pvirq host for us: it speaks version {host}, and this module version {ours}\n");
        ENODEV
    }

    /// Returns how many descriptors can be registered.
    pub(crate) fn max_descriptors(&self) -> u32 {
        self.max_descriptors
    }

    /// Returns whether the host polls for idle vCPUs.
    #[inline]
    pub(crate) fn has_idle(&self) -> bool {
        self.features.read_once() & FEATURE_IDLE != 0
    }

    /// Returns whether the host has epochs.
    pub(crate) fn has_epochs(&self) -> bool {
        self.features.read_once() & FEATURE_EPOCH != 0
    }

    /// Returns the epoch of the host's registration, 0 if it has none, and [`ABSENT`] if there is no host.
    pub(crate) fn epoch(&self) -> u32 {
        self.read(ReadRegister::Epoch)
    }

    /// Announces the current CPU to the host, which tracks vCPUs that have accessed a register.
    pub(crate) fn announce(&self) {
        let _magic = self.read(ReadRegister::Magic);
    }

    /// Registers `array` in the place of any before, and returns its epoch if the host, which may be another than before,
    /// has epochs. Any context but NMIs.
    pub(crate) fn register(&self, array: Array) -> Result<Option<u32>, Refusal> {
        let _irq = local_interrupt_disable();

        if self.read(ReadRegister::Magic) != MAGIC {
            return Err(Refusal::NoHost);
        }
        let features = self.read(ReadRegister::Features) & self.wanted;
        if features & FEATURE_POST == 0 {
            return Err(Refusal::NoPosting);
        }
        if features & FEATURE_EPOCH != 0 {
            // To register the same array again would change nothing, but its descriptors are closed.
            let _status = self.command(Command::Unregister);
        }
        // The casts split the address.
        self.write(WriteRegister::AddressLow, array.address as u32);
        self.write(WriteRegister::AddressHigh, (array.address >> 32) as u32);
        self.write(WriteRegister::Count, array.count);
        match self.command(Command::Register {
            version: self.version,
        }) {
            Ok(Status::Ok) => {}
            Ok(Status::WrongVersion) => {
                return Err(Refusal::Version(self.read(ReadRegister::Version)));
            }
            Ok(status) => return Err(Refusal::Status(status)),
            Err(number) => return Err(Refusal::Number(number)),
        }
        self.features.write_once(features);
        if features & FEATURE_EPOCH == 0 {
            return Ok(None);
        }
        match self.epoch() {
            0 | ABSENT => Err(Refusal::Ended),
            epoch => Ok(Some(epoch)),
        }
    }

    /// Ends the registration, and returns whether the host has none now. Any context but NMIs.
    pub(crate) fn unregister(&self) -> bool {
        let status = {
            let _irq = local_interrupt_disable();

            self.command(Command::Unregister)
        };

        // The registration may have ended already, and the host may be gone.
        matches!(status, Ok(Status::Ok | Status::NotRegistered))
            || self.read(ReadRegister::Magic) != MAGIC
    }

    /// Makes the idle call for the current CPU, which is idle and has a descriptor.
    #[inline]
    pub(crate) fn idle(&self, idle: &Idle) {
        let offset = WriteRegister::Command.offset();

        self.registers
            .write_idle(idle, offset, Command::Idle.encode());
    }

    /// Gives a command, and returns its status, or a number that is not a status. With interrupts off.
    fn command(&self, command: Command) -> Result<Status, u32> {
        self.write(WriteRegister::Command, command.encode());
        let number = self.read(ReadRegister::Status);

        Status::from_number(number).ok_or(number)
    }

    fn read(&self, register: ReadRegister) -> u32 {
        self.registers.read(register.offset())
    }

    fn write(&self, register: WriteRegister, value: u32) {
        self.registers.write(register.offset(), value);
    }
}
