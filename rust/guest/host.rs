// SPDX-License-Identifier: GPL-2.0

//! The host, as its ports show it, see [`pvirq_protocol::port`].
//!
//! # Concurrency
//!
//! Each vCPU has registers of its own, so that commands need no lock. Those that take several
//! accesses are made with interrupts off: neither another CPU nor an interrupt comes between.

use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*, //
};
use kernel_ext_cpu::{
    cpuidle::Idle,
    port_io::Ports,
    topology, //
};
use pvirq_protocol::port::{
    Array,
    Command,
    ReadRegister,
    Status,
    WriteRegister,
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
    features: u32,
    max_descriptors: u32,
}

impl Host {
    /// Looks for a host at `base`, with which to speak `version`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none, or none that can be used; the log says why.
    pub(crate) fn find(base: u16, version: u16) -> Result<Self> {
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
        let features = read(ReadRegister::Features);
        if features & FEATURE_POST == 0 {
            pr_err!("no pvirq host for us: it does not offer posting\n");
            return Err(ENODEV);
        }
        let max_descriptors = read(ReadRegister::MaxDescriptors);
        Ok(Self {
            ports,
            version,
            features,
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
        self.features & FEATURE_IDLE != 0
    }

    /// Lets the host tell senders of the current CPU: it does so for those that it knows to care.
    pub(crate) fn greet(&self) {
        let _magic = self.read(ReadRegister::Magic);
    }

    /// Makes the host use `array` in place of any before. Any context but NMIs.
    pub(crate) fn register(&self, array: Array) -> Result {
        let status = {
            let _irq = local_interrupt_disable();

            // The address is cut in two.
            self.write(WriteRegister::AddressLow, array.address as u32);
            self.write(WriteRegister::AddressHigh, (array.address >> 32) as u32);
            self.write(WriteRegister::Count, array.count);
            self.command(Command::Register {
                version: self.version,
            })
        };

        match status {
            Ok(Status::Ok) => Ok(()),
            Ok(Status::WrongVersion) => Err(Self::wrong_version(
                self.read(ReadRegister::Version),
                self.version,
            )),
            Ok(status) => {
                pr_err!(
                    "the host does not take {} descriptors: {}\n",
                    array.count,
                    core::format_args!("{status}")
                );
                Err(ENODEV)
            }
            Err(number) => {
                pr_err!("the host gives status {number}, which has no meaning\n");
                Err(ENODEV)
            }
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

        // There are none if the VM has been reset, or its memory has moved.
        matches!(status, Ok(Status::Ok | Status::NotRegistered))
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
