// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sending to a vCPU while other senders of the same vector stop for ever in their posts. See
//! [`Frozen`](mini_guest::Frozen).
//!
//! vCPU 0 sends and measures, vCPU 1 is the target and changes all the time what it does, and vCPU 2, if there is one,
//! begins posts and stops where the VMM wants it to.

use core::{
    fmt::Write,
    ptr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use mini_guest::{port, Job, Mechanism, Random, Shared, StopAt};
use pvirq_protocol::{Descriptor, Posted, Vector};

use crate::{
    apic,
    console::Console,
    cpu,
    ipi::{self, Sends, IPI},
    polling, pvirq,
    sender::spin_until,
};

const TARGET: u32 = 1;
const STOPS: u32 = 2;

/// Takes part. Interrupts are off before and afterwards.
pub fn run(shared: &Shared, job: &Job, index: u32) {
    let mut random = Random::of_vcpu(job.seed, index);
    match index {
        0 => send(shared, job, &mut random),
        TARGET => take(shared, job, &mut random),
        STOPS => stop(shared, job, &mut random),
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

/// Sends one interrupt after the other, and notes how long those take to be acknowledged that the VMM wants measured.
fn send(shared: &Shared, job: &Job, random: &mut Random) {
    let slot = &shared.slots[TARGET as usize];
    let mut sends = Sends::default();
    let (mut sequence, mut events) = (0, 0);

    while !is_over(shared) {
        let is_measured = shared.frozen.measured.load(SeqCst) != 0;
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
        if is_measured {
            if let Some(cycles) = shared.cycles.get(events) {
                cycles.store(cpu::cycles().wrapping_sub(start), Relaxed);
            }
            events += 1;
            shared.events.store(events as u64, SeqCst);
        }
        let gap = random.below(job.gap.max(1));
        spin_until(gap, || is_over(shared));
    }
    sends.publish(shared, 0);
    shared.frozen.over.store(1, SeqCst);
    shared.frozen.done.store(1, SeqCst);
    ipi::wake_others();
}

/// Is busy, polls in the guest, lets the host poll, and halts, at random.
fn take(shared: &Shared, job: &Job, random: &mut Random) {
    let descriptor = &shared.descriptors[TARGET as usize];
    let interrupts = &shared.slots[TARGET as usize].interrupts;
    // An interrupt may be under way when the job is over.
    let is_done = || shared.frozen.done.load(SeqCst) != 0;

    while !is_done() {
        let before = interrupts.load(SeqCst);
        let span = random.below(job.gap.max(1));
        shared.frozen.changes.fetch_add(1, SeqCst);
        match random.below(8) {
            0 | 1 => {
                cpu::enable_interrupts();
                spin_until(span, || interrupts.load(SeqCst) != before);
            }
            // Most of the time it polls: then posts are worth to be stopped.
            2..6 => _ = polling::poll_for(shared, TARGET, span),
            6 => {
                cpu::disable_interrupts();
                _ = pvirq::idle(descriptor);
            }
            _ => {
                cpu::disable_interrupts();
                if !is_done() {
                    cpu::halt();
                }
            }
        }
        cpu::enable_interrupts();
    }
}

/// Begins one post after the other, and does not finish them: each time it stops where the VMM wants that, for as long as
/// the VMM wants.
fn stop(shared: &Shared, job: &Job, random: &mut Random) {
    let descriptor = &shared.descriptors[TARGET as usize];
    let will_poll = || descriptor.guest_state().will_poll() || descriptor.host_state().will_poll();

    while !is_over(shared) {
        spin_until(random.below(job.gap.max(1)), || is_over(shared));
        match shared.frozen.stop_at() {
            StopAt::Nowhere => continue,
            StopAt::BetweenPosts => {}
            StopAt::AfterSet => {
                if !spin_until(job.gap, || will_poll() || is_over(shared)) {
                    continue;
                }
                // The target may do something else by the time that the bit is set.
                spin_until(random.below(job.gap.max(1)), || is_over(shared));
                set(descriptor, IPI);
            }
        }
        // SAFETY: The VMM touches no memory but what is shared, which is atomics.
        unsafe { cpu::out(port::RING, 0) };
    }
}

/// Sets a pending bit as the protocol's sender does, and nothing else.
fn set(descriptor: &Descriptor, vector: Vector) {
    let (word, bit) = (vector.get() / 64, vector.get() % 64);
    let words = ptr::from_ref(descriptor).cast::<AtomicU64>();
    // SAFETY: A descriptor begins with four such words, by its layout, which is an interface.
    let word = unsafe { &*words.add(word.into()) };

    word.fetch_or(1 << bit, SeqCst);
}
