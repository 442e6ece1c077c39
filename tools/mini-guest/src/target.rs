// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The other vCPUs' part of a job: they rest until they have acknowledged all that is for them.

use core::{
    hint::black_box,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{Job, Rest, Shared};
use pvirq_protocol::{Descriptor, Vectors};

use crate::{cpu, idle::Idle, ipi, pvirq};

/// Rests, with interrupts on, until the last interrupt for this vCPU.
pub fn wait(shared: &Shared, job: &Job, index: u32) {
    let slot = &shared.slots[index as usize];
    let descriptor = &shared.descriptors[index as usize];
    let targets = shared.vcpus.load(Relaxed) - 1;
    let last = u64::from(job.last_sequence(index, targets));
    let rest = job.rest.of(index);
    let mut idle = Idle::new(shared, job, index);
    let mut work = 0_u64;

    loop {
        // An interrupt between the look at `acknowledged` and HLT would be slept over.
        cpu::disable_interrupts();
        let acknowledged = slot.acknowledged.load(SeqCst);
        let done = acknowledged >= last || shared.stop.load(SeqCst) != 0;
        let goes_on =
            || slot.acknowledged.load(Relaxed) == acknowledged && shared.stop.load(Relaxed) == 0;

        // Whoever sees that this vCPU rests shall see that it polls.
        match rest {
            _ if done => {}
            Rest::Polling => descriptor.enter_polling(),
            Rest::Idle | Rest::Spin | Rest::Governor => idle.begin(),
            _ => {}
        }
        slot.rested.store(acknowledged + 1, SeqCst);
        if done {
            return;
        }
        match rest {
            Rest::Idle | Rest::Spin | Rest::Governor => _ = idle.wait(goes_on),
            Rest::Halted => cpu::halt(),
            Rest::Polling => {
                poll(descriptor, goes_on);
                leave_polling(shared, index);
            }
            Rest::PollingHost => {
                let may_halt = pvirq::idle(descriptor);
                cpu::disable_interrupts();
                if may_halt && goes_on() {
                    cpu::halt();
                }
            }
            Rest::Busy | Rest::Mixed => {
                cpu::enable_interrupts();
                // Something to do that is neither a PAUSE nor memory that others use.
                while goes_on() {
                    work = black_box(work.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
                }
            }
        }
    }
}

/// Lets interrupts in, and looks at the descriptor until something is there, or until it shall not go on.
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
