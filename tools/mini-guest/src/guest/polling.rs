// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Polling the vCPU's own descriptor.

use mini_guest::Shared;
use pvirq_protocol::{Descriptor, Vectors};

use crate::{cpu, ipi};

/// Enables interrupts, and polls the descriptor until something is pending or `goes_on` says no.
///
/// There is no PAUSE in the loop: in a guest, enough of them cost an exit.
pub fn poll(descriptor: &Descriptor, mut goes_on: impl FnMut() -> bool) {
    cpu::enable_interrupts();
    while !descriptor.has_pending() && goes_on() {}
}

/// Handles what is in the vCPU's descriptor, leaves the polling state, handles what came meanwhile, and says how much that
/// was. Interrupts are off afterwards.
pub fn leave_polling(shared: &Shared, index: u32) -> u32 {
    let descriptor = &shared.descriptors[index as usize];

    cpu::disable_interrupts();
    handle(shared, index, descriptor.drain()) + handle(shared, index, descriptor.leave_polling())
}

fn handle(shared: &Shared, index: u32, vectors: Vectors) -> u32 {
    shared.descriptors[index as usize].count_drained(&vectors);
    for vector in vectors {
        ipi::handle(shared, index, vector);
    }
    vectors.len()
}
