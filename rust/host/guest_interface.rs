// SPDX-License-Identifier: GPL-2.0

//! The guest interface's registers of one vCPU, see [`pvirq_protocol::port`].
//!
//! On x86 they are ports. Only the run loop knows that.

use pvirq_protocol::port::{
    Array,
    Command,
    ReadRegister,
    Status,
    WriteRegister,
    ABSENT,
    FEATURE_POST,
    MAGIC,
    VERSION, //
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
            array: Array::default(),
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
            ReadRegister::Features => FEATURE_POST,
            ReadRegister::MaxDescriptors => vm.max_descriptors(),
            ReadRegister::Status => self.status.number(),
        }
    }

    /// Does what the vCPU asks for by writing `value` at `offset`.
    pub(crate) fn write(&mut self, vm: &Vm, offset: u16, value: u32) {
        let Some(register) = WriteRegister::from_offset(offset) else {
            return;
        };

        self.array.write(register, value);
        if register == WriteRegister::Command {
            self.status = match self.command(vm, value) {
                Ok(()) => Status::Ok,
                Err(status) => status,
            };
        }
    }

    fn command(&self, vm: &Vm, word: u32) -> Result<(), Status> {
        match Command::decode(word)? {
            Command::Register { .. } => vm.register(self.array),
            Command::Unregister if vm.unregister() => Ok(()),
            Command::Unregister => Err(Status::NotRegistered),
        }
    }
}
