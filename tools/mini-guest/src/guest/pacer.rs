// SPDX-License-Identifier: GPL-2.0 OR MIT

//! vCPU 0's part where it wakes an idle vCPU at given intervals, and measures how long that takes.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use mini_guest::{Job, Shared, CYCLES_LEN};

use crate::{
    cpu,
    ipi::{self, IpiMethod, Sends, IPI},
    sender::{self, spin_until},
    status::fail,
};

/// The vCPU that is woken.
pub const TARGET: u32 = 1;

/// Sends the job's interrupts, each as long after the last one as the VMM wants it, or if the target is not idle by then,
/// as soon as it is.
///
/// A wake-up takes from before the send until the target's handler runs, by the clock that both have.
pub fn wake(shared: &Shared, job: &Job) {
    let method = IpiMethod::new(job.mechanism);
    let slot = &shared.slots[TARGET as usize];
    let mut sends = Sends::default();
    let (mut events, mut lost) = (0, 0);
    let mut first = None;
    let mut last = cpu::cycles();
    let late = |what, sequence| {
        let slots = core::slice::from_ref(slot);
        sender::report(TARGET..=TARGET, slots, what, sequence, |_| true)
    };

    for sequence in 1..=job.sends {
        let place = (sequence as usize - 1) % CYCLES_LEN;
        let interval = shared.intervals[place].load(Relaxed);
        if !spin_until(job.patience, || sender::rests(slot)) {
            lost = late("did not come to rest before", sequence);
            break;
        }
        while cpu::cycles().wrapping_sub(last) < interval {}

        slot.sent.store(sequence.into(), SeqCst);
        last = cpu::cycles();
        first.get_or_insert(last);
        method.raise(shared, IPI, TARGET, &mut sends);
        let acknowledged = || slot.acknowledged.load(SeqCst) == sequence.into();
        if !spin_until(job.patience, acknowledged) {
            lost = late("did not acknowledge", sequence);
            break;
        }
        let (arrived, seen) = (slot.arrived.load(SeqCst), cpu::cycles());
        if !(last..=seen).contains(&arrived) {
            fail(format_args!(
                "the vCPUs' clocks differ: sent at {last}, arrived at {arrived}, seen at {seen}"
            ));
        }
        if let Some(cycles) = shared.cycles.get(events) {
            cycles.store(arrived - last, Relaxed);
        }
        events += 1;
    }
    sends.publish(shared, 0);
    shared
        .span
        .store(last.wrapping_sub(first.unwrap_or(last)), SeqCst);
    shared.events.store(events as u64, SeqCst);
    shared.lost.store(lost, SeqCst);
    if lost != 0 {
        // The target still waits for what was lost.
        shared.stop.store(1, SeqCst);
        ipi::wake_others();
    }
}
