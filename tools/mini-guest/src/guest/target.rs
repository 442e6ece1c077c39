// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The other vCPUs' part of a job: they rest until they have acknowledged all that is for them.

use core::{
    hint::black_box,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{IdleMode, Job, Shared};

use crate::{
    cpu,
    idle::Idle,
    polling::{leave_polling, poll},
    pvirq,
};

/// Rests, with interrupts on, until the last interrupt for this vCPU.
pub fn wait(shared: &Shared, job: &Job, index: u32) {
    let slot = &shared.slots[index as usize];
    let descriptor = &shared.descriptors[index as usize];
    let targets = shared.vcpus.load(Relaxed) - 1;
    let last = u64::from(job.last_sequence(index, targets));
    let idle_mode = job.idle_mode.of(index);
    let mut idle = Idle::new(shared, job, index);
    let mut work = 0_u64;

    loop {
        // An interrupt between the read of `acknowledged` and HLT would not end the HLT.
        cpu::disable_interrupts();
        let acknowledged = slot.acknowledged.load(SeqCst);
        let done = acknowledged >= last || shared.stop.load(SeqCst) != 0;
        let goes_on =
            || slot.acknowledged.load(Relaxed) == acknowledged && shared.stop.load(Relaxed) == 0;

        // A sender that sees that this vCPU rests must see that it polls.
        match idle_mode {
            _ if done => {}
            IdleMode::Polling => descriptor.enter_polling(),
            IdleMode::Idle | IdleMode::Spin | IdleMode::Governor => idle.begin(),
            _ => {}
        }
        slot.rested.store(acknowledged + 1, SeqCst);
        if done {
            return;
        }
        match idle_mode {
            IdleMode::Idle | IdleMode::Spin | IdleMode::Governor => _ = idle.wait(goes_on),
            IdleMode::Halted => cpu::halt(),
            IdleMode::Polling => {
                poll(descriptor, goes_on);
                leave_polling(shared, index);
            }
            IdleMode::PollingHost => {
                let may_halt = pvirq::idle(descriptor);
                cpu::disable_interrupts();
                if may_halt && goes_on() {
                    cpu::halt();
                }
            }
            IdleMode::Busy | IdleMode::Mixed => {
                cpu::enable_interrupts();
                // Something to do that is neither a PAUSE nor memory that others use.
                while goes_on() {
                    work = black_box(work.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
                }
            }
        }
    }
}
