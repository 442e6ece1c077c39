// SPDX-License-Identifier: GPL-2.0

//! The host, as its ports show it, see [`pvirq_protocol::registers`].
//!
//! # Concurrency
//!
//! Each vCPU has registers of its own, so that commands need no lock. Those that take several
//! accesses are made with interrupts off: neither another CPU nor an interrupt comes between.

use core::fmt;
use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*,
    sync::atomic::Atomic, //
};
use kernel_ext_cpu::{
    cpuidle::Idle,
    port_io::Ports,
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
    LEN,
    MAGIC,
    VERSION, //
};

/// A pvirq host.
pub(crate) struct Host {
    ports: Ports,
    /// The version that we ask for.
    version: u16,
    /// The features to use.
    wanted: u32,
    /// Those of the host that there was when the descriptors were registered last.
    features: Atomic<u32>,
    max_descriptors: u32,
}

/// Why the descriptors are not registered.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    /// There is no host, perhaps not any more.
    NoHost,
    /// The host speaks this version.
    Version(u32),
    /// The host does not offer posting.
    NoPosting,
    /// The registration has ended at once.
    Ended,
    /// What the host says.
    Status(Status),
    /// The host says something that has no meaning.
    Number(u32),
}

impl Refusal {
    /// Returns whether the same host may take the same descriptors later.
    pub(crate) fn is_for_now(self) -> bool {
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
            Self::Number(number) => write!(f, "status {number}, which has no meaning"),
        }
    }
}

impl Host {
    /// Looks for a host at `base`, with which to speak `version`, and of whose features to use those in `wanted`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none, or none that can be used; the log says why.
    pub(crate) fn find(base: u16, version: u16, wanted: u32) -> Result<Self> {
        if !topology::has_hypervisor() {
            pr_err!("no pvirq host: this is not a virtual machine\n");
            return Err(ENODEV);
        }
        if base % LEN != 0 {
            pr_err!("port={base:#x} is not a multiple of {LEN}\n");
            return Err(EINVAL);
        }
        // SAFETY: If nobody has claimed these ports, nobody answers there, or it is pvirq, which
        // accesses no memory but the descriptors that it is told of.
        let ports = unsafe { Ports::claim(base, LEN, c"pvirq") }.inspect_err(|_| {
            pr_err!("no pvirq host: something else is at port {base:#x}, see /proc/ioports\n");
        })?;
        let read = |register: ReadRegister| ports.read(register.offset());

        if read(ReadRegister::Magic) != MAGIC {
            pr_err!("no pvirq host: nobody answers at port {base:#x}\n");
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
            ports,
            version,
            wanted,
            features: Atomic::new(features),
            max_descriptors,
        })
    }

    /// Says which versions do not fit, and returns the error for it.
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

    /// Returns whether the host tells the epoch of a registration.
    pub(crate) fn has_epochs(&self) -> bool {
        self.features.read_once() & FEATURE_EPOCH != 0
    }

    /// Returns the epoch of the registration that the host has, 0 if it has none, and [`ABSENT`] if there is no host.
    pub(crate) fn epoch(&self) -> u32 {
        self.read(ReadRegister::Epoch)
    }

    /// Lets the host tell senders of the current CPU: it does so for those that it knows to care.
    pub(crate) fn greet(&self) {
        let _magic = self.read(ReadRegister::Magic);
    }

    /// Makes the host use `array` in place of any before, and returns the epoch of that, if it has epochs. The host may be
    /// another than before. Any context but NMIs.
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
            // What the host calls registered already stays as it is, and we have just changed it.
            let _status = self.command(Command::Unregister);
        }
        // The address is cut in two.
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

    /// Makes the host use no descriptors any more; returns whether it uses none now.
    ///
    /// Any context but NMIs.
    pub(crate) fn unregister(&self) -> bool {
        let status = {
            let _irq = local_interrupt_disable();

            self.command(Command::Unregister)
        };

        // There are none if the VM has been reset, or its memory has moved. And there may be no host any more.
        matches!(status, Ok(Status::Ok | Status::NotRegistered))
            || self.read(ReadRegister::Magic) != MAGIC
    }

    /// Lets the host poll on behalf of the current CPU, which is idle and has a descriptor.
    #[inline]
    pub(crate) fn idle(&self, idle: &Idle) {
        let port = self.ports.at(WriteRegister::Command.offset());

        idle.write_port(port, Command::Idle.encode());
    }

    /// Gives a command, and returns what became of it, or a number that is no status. With
    /// interrupts off.
    fn command(&self, command: Command) -> Result<Status, u32> {
        self.write(WriteRegister::Command, command.encode());
        let number = self.read(ReadRegister::Status);

        Status::from_number(number).ok_or(number)
    }

    fn read(&self, register: ReadRegister) -> u32 {
        self.ports.read(register.offset())
    }

    fn write(&self, register: WriteRegister, value: u32) {
        self.ports.write(register.offset(), value);
    }
}
