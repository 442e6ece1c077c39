// SPDX-License-Identifier: GPL-2.0

//! The registers of the guest interface, of one vCPU. See [`pvirq_protocol::registers`].

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

/// What the run loop has to do for a command.
pub(super) enum Action {
    None,
    /// Tell the guest that there is no such command.
    Fail(Status),
    Register(Array),
    Unregister,
    Idle,
}

/// What a vCPU has written, and the status of its last command.
pub(super) struct Registers {
    array: Array,
    status: Status,
}

impl Registers {
    pub(super) fn new() -> Self {
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

    /// Returns what the vCPU reads at `offset`, in a VM with this interrupt controller and registration.
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

    /// Takes what the vCPU writes at `offset`, and returns what it asks for by that.
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
