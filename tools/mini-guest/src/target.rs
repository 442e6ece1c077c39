// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The other vCPUs' part of a job: they rest until they have acknowledged all that is for them.

use core::{
    hint::black_box,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{Job, Rest, Shared};

use crate::cpu;

/// Rests, with interrupts on, until the last interrupt for this vCPU.
pub fn wait(shared: &Shared, job: &Job, index: u32) {
    let slot = &shared.slots[index as usize];
    let targets = shared.vcpus.load(Relaxed) - 1;
    let last = u64::from(job.last_sequence(index, targets));
    let mut work = 0_u64;

    loop {
        // An interrupt between the look at `acknowledged` and HLT would be slept over.
        cpu::disable_interrupts();
        let acknowledged = slot.acknowledged.load(SeqCst);
        slot.rested.store(acknowledged + 1, SeqCst);
        if acknowledged >= last || shared.stop.load(SeqCst) != 0 {
            return;
        }
        match job.rest {
            Rest::Halted => cpu::halt(),
            Rest::Busy => {
                cpu::enable_interrupts();
                // Something to do that is neither a PAUSE nor memory that others use.
                while slot.acknowledged.load(Relaxed) == acknowledged
                    && shared.stop.load(Relaxed) == 0
                {
                    work = black_box(work.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
                }
            }
        }
    }
}
