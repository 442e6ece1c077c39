// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sending to a vCPU while other senders of the same vector stop for ever in their posts. See
//! [`Frozen`](mini_guest::Frozen).
//!
//! vCPU 0 sends and measures, and vCPU 1 is the target and changes all the time what it does.

use core::{
    fmt::Write,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{Job, Mechanism, Shared};
use pvirq_protocol::Posted;

use crate::{
    all_to_all::Random,
    apic,
    console::Console,
    cpu,
    ipi::{self, Sends, IPI},
    pvirq,
    sender::spin_until,
    target,
};

const TARGET: u32 = 1;

/// Takes part. Interrupts are off before and afterwards.
pub fn run(shared: &Shared, job: &Job, index: u32) {
    let mut random = Random::new(job.seed, index);
    match index {
        0 => send(shared, job, &mut random),
        TARGET => take(shared, job, &mut random),
        _ => {}
    }
    cpu::disable_interrupts();
}

fn is_over(shared: &Shared) -> bool {
    shared.frozen.over.load(SeqCst) != 0 || shared.stop.load(SeqCst) != 0
}

/// Posts an interrupt to the target, and kicks it if that is needed.
fn post(shared: &Shared, sends: &mut Sends) {
    let posted = shared.descriptors[TARGET as usize].post(IPI);
    sends.posts.add(posted);
    if posted == Posted::Kick {
        sends.native += 1;
        apic::send(IPI.get(), TARGET);
    }
}

/// Sends one interrupt after the other while the VMM wants that, and notes how long each takes to be acknowledged.
fn send(shared: &Shared, job: &Job, random: &mut Random) {
    let slot = &shared.slots[TARGET as usize];
    let mut sends = Sends::default();
    let (mut sequence, mut events) = (0, 0);

    while !is_over(shared) {
        let is_measured = || shared.frozen.measured.load(SeqCst) != 0;
        if !spin_until(job.gap, || is_measured() || is_over(shared)) || !is_measured() {
            continue;
        }
        sequence += 1;
        slot.sent.store(sequence, SeqCst);
        let start = cpu::cycles();
        match job.mechanism {
            Mechanism::Pvirq => post(shared, &mut sends),
            _ => apic::send(IPI.get(), TARGET),
        }
        if !spin_until(job.patience, || slot.acknowledged.load(SeqCst) == sequence) {
            let _ = writeln!(
                Console::lock(),
                "mini-guest: interrupt {sequence} was not acknowledged: {}, {:?}",
                slot.acknowledged.load(SeqCst),
                shared.descriptors[TARGET as usize],
            );
            shared.lost.store(1, SeqCst);
            break;
        }
        if let Some(cycles) = shared.cycles.get(events) {
            cycles.store(cpu::cycles().wrapping_sub(start), Relaxed);
        }
        events += 1;
        shared.events.store(events as u64, SeqCst);
        let gap = random.below(job.gap.max(1));
        spin_until(gap, || is_over(shared));
    }
    sends.publish(shared);
    shared.frozen.over.store(1, SeqCst);
    ipi::wake_others();
}

/// Is busy, polls in the guest, lets the host poll, and halts, at random.
fn take(shared: &Shared, job: &Job, random: &mut Random) {
    let descriptor = &shared.descriptors[TARGET as usize];
    let interrupts = &shared.slots[TARGET as usize].interrupts;

    while !is_over(shared) {
        let before = interrupts.load(SeqCst);
        let span = random.below(job.gap.max(1));
        let start = cpu::cycles();
        shared.frozen.changes.fetch_add(1, SeqCst);
        match random.below(8) {
            0 | 1 => {
                cpu::enable_interrupts();
                spin_until(span, || interrupts.load(SeqCst) != before);
            }
            // Most of the time it polls: then posts are worth to be stopped.
            2..6 => {
                descriptor.enter_polling();
                target::poll(descriptor, || {
                    interrupts.load(SeqCst) == before && cpu::cycles().wrapping_sub(start) < span
                });
                target::leave_polling(shared, TARGET);
            }
            6 => {
                cpu::disable_interrupts();
                _ = pvirq::idle(descriptor);
            }
            _ => {
                cpu::disable_interrupts();
                if !is_over(shared) {
                    cpu::halt();
                }
            }
        }
        cpu::enable_interrupts();
    }
}
