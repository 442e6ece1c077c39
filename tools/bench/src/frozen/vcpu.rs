// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A vCPU that begins posts, and is kept out of `KVM_RUN` in them, as a debugger does that stops its thread.

use std::{
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use mini_guest::{Shared, StopAt};
use vmm::{boot, error::Error, machine::Machine};

use crate::session::JOB_LIMIT;

/// How many interrupts are measured each time.
const SENDS: u64 = 10;
/// The interval between two checks whether they have been.
const CHECK: Duration = Duration::from_micros(100);

/// Waits until something is so, or the job is over. Says whether neither has happened in time.
fn waits_too_long(shared: &Shared, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();

    while !condition() && shared.frozen.over.load(SeqCst) == 0 {
        if start.elapsed() > JOB_LIMIT {
            return true;
        }
        thread::sleep(CHECK);
    }
    false
}

/// Has interrupts measured each time that the vCPU rings, in its thread, which is out of `KVM_RUN` meanwhile.
pub(super) fn set_bell(machine: &Machine) {
    let memory = machine.memory();

    machine.set_bell(Box::new(move || {
        let Ok(shared) = boot::shared(&memory) else {
            return;
        };
        let goal = shared.events.load(SeqCst) + SENDS;

        shared.frozen.measured.store(1, SeqCst);
        waits_too_long(shared, || shared.events.load(SeqCst) >= goal);
        shared.frozen.measured.store(0, SeqCst);
        shared.frozen.stops.fetch_add(1, SeqCst);
    }));
}

/// Has the vCPU stop so many times.
pub(super) fn stop(shared: &Shared, at: StopAt, stops: u32) -> Result<(), Error> {
    shared.frozen.stop_at.store(at as u32, SeqCst);
    if waits_too_long(shared, || shared.frozen.stops.load(SeqCst) >= stops) {
        return Err(Error::Memory(format!(
            "a vCPU has stopped {} times only",
            shared.frozen.stops.load(SeqCst)
        )));
    }
    Ok(())
}
