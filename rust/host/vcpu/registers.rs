// SPDX-License-Identifier: GPL-2.0

//! The registers of the guest interface of one vCPU, see [`pvirq_protocol::registers`].

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

use crate::arch::VmEvents;

/// The action that the run loop takes for a write.
pub(super) enum Action {
    None,
    /// Refuse a command with this status.
    Fail(Status),
    Register(Array),
    Unregister,
    Idle,
}

/// The values that a vCPU has written, and the status of its last command.
pub(super) struct Registers {
    array: Array,
    status: Status,
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            // A guest that is saved between its writes continues with new registers. Whichever half of the address it
            // has still to write, the result cannot be registered.
            array: Array {
                address: u64::MAX,
                count: 0,
            },
            status: Status::Ok,
        }
    }

    /// Returns the value that the vCPU reads at `offset`. `epoch` is that of the VM's registration, or 0.
    pub(super) fn read(&self, irqchip: &impl VmEvents, epoch: u32, offset: u16) -> u32 {
        let Some(register) = ReadRegister::from_offset(offset) else {
            return ABSENT;
        };

        match register {
            ReadRegister::Magic => MAGIC,
            ReadRegister::Version => VERSION.into(),
            ReadRegister::Features => FEATURE_POST | FEATURE_IDLE | FEATURE_EPOCH,
            ReadRegister::MaxDescriptors => irqchip.max_descriptors(),
            ReadRegister::Status => self.status.number(),
            ReadRegister::Epoch => epoch,
        }
    }

    /// Takes the value that the vCPU writes at `offset`, and returns the action for it.
    pub(super) fn write(&mut self, offset: u16, value: u32) -> Action {
        let Some(register) = WriteRegister::from_offset(offset) else {
            return Action::None;
        };

        self.array.write(register, value);
        if register != WriteRegister::Command {
            return Action::None;
        }
        match Command::decode(value) {
            Ok(Command::Register { .. }) => Action::Register(self.array),
            Ok(Command::Unregister) => Action::Unregister,
            Ok(Command::Idle) => Action::Idle,
            Err(status) => Action::Fail(status),
        }
    }

    /// Notes the status of the last command.
    pub(super) fn set_status(&mut self, status: Status) {
        self.status = status;
    }
}
