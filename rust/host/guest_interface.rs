// SPDX-License-Identifier: GPL-2.0

//! The guest interface's registers of one vCPU, see [`pvirq_protocol::port`].
//!
//! On x86 they are ports. Only the run loop knows that.

use pvirq_protocol::{
    ioctl::EndReason,
    port::{
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
    }, //
};

use crate::vm::Vm;

/// What a vCPU has written, and what became of its last command.
pub(crate) struct Registers {
    array: Array,
    status: Status,
}

impl Registers {
    pub(crate) fn new() -> Self {
        Self {
            // A guest that is saved between its writes goes on elsewhere, and must not name an address that it has
            // written half of: neither half alone makes this one that can be registered.
            array: Array {
                address: u64::MAX,
                count: 0,
            },
            status: Status::Ok,
        }
    }

    /// Returns what the vCPU reads at `offset`.
    pub(crate) fn read(&self, vm: &Vm, offset: u16) -> u32 {
        let Some(register) = ReadRegister::from_offset(offset) else {
            return ABSENT;
        };

        match register {
            ReadRegister::Magic => MAGIC,
            ReadRegister::Version => VERSION.into(),
            ReadRegister::Features => FEATURE_POST | FEATURE_IDLE | FEATURE_EPOCH,
            ReadRegister::MaxDescriptors => vm.max_descriptors(),
            ReadRegister::Status => self.status.number(),
            ReadRegister::Epoch => vm.epoch(),
        }
    }

    /// Does what the vCPU asks for by writing `value` at `offset`; returns whether that is the idle
    /// call, which is the run loop's to do.
    pub(crate) fn write(&mut self, vm: &Vm, offset: u16, value: u32) -> bool {
        let Some(register) = WriteRegister::from_offset(offset) else {
            return false;
        };

        self.array.write(register, value);
        if register != WriteRegister::Command {
            return false;
        }
        let result = match Command::decode(value) {
            Ok(Command::Idle) => return true,
            Ok(Command::Register { .. }) => vm.register(self.array),
            Ok(Command::Unregister) if vm.end(EndReason::Unregistered) => Ok(()),
            Ok(Command::Unregister) => Err(Status::NotRegistered),
            Err(status) => Err(status),
        };
        self.set_status(result.err().unwrap_or(Status::Ok));
        false
    }

    /// Notes what became of the last command.
    pub(crate) fn set_status(&mut self, status: Status) {
        self.status = status;
    }
}
