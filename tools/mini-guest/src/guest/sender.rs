// SPDX-License-Identifier: GPL-2.0 OR MIT

//! vCPU 0's part of a job: it sends, and measures.

use core::{
    fmt::Write,
    ops::RangeInclusive,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{IdleMode, Job, Pattern, Shared, Slot};
use pvirq_protocol::{Descriptor, HostState};

use crate::{
    console::Console,
    cpu,
    ipi::{self, IpiMethod, Sends, IPI},
};

/// Spins until `done`, for `patience` cycles at most. Says whether it came true.
///
/// There is no PAUSE in the loop: in a guest, enough of them cost an exit, which would be counted.
pub fn spin_until(patience: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = cpu::cycles();
    while !done() {
        if cpu::cycles().wrapping_sub(start) > patience {
            return done();
        }
    }
    true
}

/// Whether the target has acknowledged everything that was sent to it, and is back at rest.
pub fn rests(slot: &Slot) -> bool {
    slot.rested.load(SeqCst) == slot.sent.load(Relaxed) + 1
}

/// Sends the job's interrupts, one after the other, and waits for each one's acknowledgement.
///
/// It stops at the first that does not come: what is lost would disturb those that follow.
pub fn send(shared: &Shared, job: &Job) {
    let targets = shared.vcpus.load(Relaxed) - 1;
    let method = IpiMethod::new(job.mechanism);
    let mut sends = Sends::default();
    let mut events = 0;
    let mut lost = 0;

    for sequence in 1..=job.sends {
        let range = match job.pattern {
            Pattern::Unicast => {
                let target = Job::unicast_target(sequence, targets);
                target..=target
            }
            Pattern::Broadcast => 1..=targets,
        };
        let slots = slots(shared, range.clone());
        if !slots
            .iter()
            .all(|slot| spin_until(job.patience, || rests(slot)))
        {
            // Targets that are late for the next interrupt count as having lost it.
            lost += report(
                range,
                slots,
                "did not come to rest before",
                sequence,
                |slot| !rests(slot),
            );
            break;
        }
        // A target whose host polls is interrupted as soon as it does so.
        spin_until(job.gap, || {
            job.idle_mode == IdleMode::PollingHost
                && descriptors(shared, range.clone()).all(host_polls)
        });

        slots
            .iter()
            .for_each(|slot| slot.sent.store(sequence.into(), SeqCst));
        let start = cpu::cycles();
        match job.pattern {
            Pattern::Unicast => method.raise(shared, IPI, *range.start(), &mut sends),
            Pattern::Broadcast => method.raise_all(shared, IPI, targets, &mut sends),
        }
        if !collect(shared, job, slots, sequence.into(), start, &mut events) {
            let missing = |slot: &Slot| slot.acknowledged.load(SeqCst) != sequence.into();
            lost += report(range, slots, "did not acknowledge", sequence, missing);
            break;
        }
    }
    sends.publish(shared, 0);
    shared.events.store(events, SeqCst);
    shared.lost.store(lost, SeqCst);
    if lost != 0 {
        // Let targets go that wait for what was lost.
        shared.stop.store(1, SeqCst);
        ipi::wake_others();
    }
}

fn descriptors(shared: &Shared, range: RangeInclusive<u32>) -> impl Iterator<Item = &Descriptor> {
    range.map(|target| &shared.descriptors[target as usize])
}

fn host_polls(descriptor: &Descriptor) -> bool {
    descriptor.host_state() == HostState::Polling
}

fn slots(shared: &Shared, range: RangeInclusive<u32>) -> &[Slot] {
    &shared.slots[*range.start() as usize..=*range.end() as usize]
}

/// Tells the console of all targets that fail in some way, and returns how many they are: at least one, even if what was
/// late has come meanwhile. The others wait until they are told that this is the end.
pub fn report(
    range: RangeInclusive<u32>,
    slots: &[Slot],
    what: &str,
    sequence: u32,
    failed: impl Fn(&Slot) -> bool,
) -> u64 {
    let mut count = 0;
    for (target, slot) in range.zip(slots).filter(|(_, slot)| failed(slot)) {
        count += 1;
        let _ = writeln!(
            Console::lock(),
            "mini-guest: vCPU {target} {what} interrupt {sequence}: sent {}, acknowledged {}, rested {}, interrupts {}",
            slot.sent.load(SeqCst),
            slot.acknowledged.load(SeqCst),
            slot.rested.load(SeqCst),
            slot.interrupts.load(SeqCst),
        );
    }
    if count == 0 {
        let _ = writeln!(
            Console::lock(),
            "mini-guest: a vCPU {what} interrupt {sequence} in time"
        );
    }
    count.max(1)
}

/// Waits for all acknowledgements of a send, and notes how long each took. Says whether they came.
fn collect(
    shared: &Shared,
    job: &Job,
    slots: &[Slot],
    sequence: u64,
    start: u64,
    events: &mut u64,
) -> bool {
    let mut waiting = u64::MAX >> (64 - slots.len());

    spin_until(job.patience, || {
        for (index, slot) in slots.iter().enumerate() {
            if waiting & (1 << index) != 0 && slot.acknowledged.load(SeqCst) == sequence {
                waiting &= !(1 << index);
                if let Some(cycles) = shared.cycles.get(*events as usize) {
                    cycles.store(cpu::cycles().wrapping_sub(start), Relaxed);
                }
                *events += 1;
            }
        }
        waiting == 0
    })
}

/// Exits by `exit`, and measures how long it takes to come back.
pub fn exit(shared: &Shared, job: &Job, exit: impl Fn()) {
    for sequence in 0..job.sends as usize {
        let start = cpu::cycles();
        exit();
        let end = cpu::cycles();
        if let Some(cycles) = shared.cycles.get(sequence) {
            cycles.store(end.wrapping_sub(start), Relaxed);
        }
    }
    shared.events.store(job.sends.into(), SeqCst);
}
