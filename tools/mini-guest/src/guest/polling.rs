// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Polling the vCPU's own descriptor.

use core::sync::atomic::Ordering::SeqCst;

use mini_guest::{port, Shared};
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

/// Polls this vCPU's descriptor until there is an interrupt, or for `span` cycles. Handles what is pending, and returns how
/// much it was. Interrupts are off afterwards.
pub fn poll_for(shared: &Shared, index: u32, span: u64) -> u32 {
    let interrupts = &shared.slots[index as usize].interrupts;
    let before = interrupts.load(SeqCst);
    let start = cpu::cycles();
    let descriptor = &shared.descriptors[index as usize];

    descriptor.enter_polling();
    poll(descriptor, || {
        interrupts.load(SeqCst) == before && cpu::cycles().wrapping_sub(start) < span
    });
    leave_polling(shared, index)
}

/// Takes what is pending in the descriptor and in the local APIC. Interrupts are off afterwards.
pub fn settle(shared: &Shared, index: u32) {
    leave_polling(shared, index);
    cpu::enable_interrupts();
    // What the local APIC has comes when the vCPU enters the guest again.
    // SAFETY: The port does nothing.
    unsafe { cpu::out(port::NULL, 0) };
    cpu::disable_interrupts();
}
