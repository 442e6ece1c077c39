// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The guest interface of pvirq, by its ports.

use mini_guest::{Answer, Request};
use pvirq_protocol::{
    registers::{Command, ReadRegister, WriteRegister, ABSENT, BASE, FEATURE_POST, MAGIC, VERSION},
    Descriptor,
};

use crate::cpu;

fn read(register: ReadRegister) -> u32 {
    // SAFETY: A read of these ports has no effect on memory.
    unsafe { cpu::in_u32(BASE + register.offset()) }
}

fn write(register: WriteRegister, value: u32) {
    // SAFETY: The host writes to descriptors only, which are atomics.
    unsafe { cpu::out_u32(BASE + register.offset(), value) };
}

/// Lets the host know that this vCPU wants to be told of, see Documentation/guest-interface.rst.
pub fn greet() {
    let _ = read(ReadRegister::Magic);
}

/// The epoch of the host's registration: 0 if there is none, all ones if there is no host, or one without epochs.
pub fn epoch() -> u32 {
    read(ReadRegister::Epoch)
}

/// Lets the host poll on this vCPU's behalf, as long as it likes. Interrupts are off before, and on afterwards.
///
/// Says whether the vCPU should execute HLT now.
pub fn idle(descriptor: &Descriptor) -> bool {
    let port = BASE + WriteRegister::Command.offset();

    // SAFETY: As in `write`.
    unsafe { cpu::enable_interrupts_and_out_u32(port, Command::Idle.encode()) };
    descriptor.idle_end().may_halt()
}

/// Finds the host and gives it a command.
pub fn ask(request: &Request) -> Answer {
    if read(ReadRegister::Magic) != MAGIC {
        return Answer::NoHost;
    }
    let (version, features) = (read(ReadRegister::Version), read(ReadRegister::Features));
    if version == ABSENT || version < VERSION.into() || features & FEATURE_POST == 0 {
        return Answer::NoPosting;
    }
    let address = request.array.address;
    write(WriteRegister::AddressLow, address as u32);
    write(WriteRegister::AddressHigh, (address >> 32) as u32);
    write(WriteRegister::Count, request.array.count);
    write(WriteRegister::Command, request.command);
    Answer::from_wire(read(ReadRegister::Status))
}
