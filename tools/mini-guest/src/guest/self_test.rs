// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the guest does without jobs: every vCPU is interrupted once, and says so.

use core::{fmt::Write, hint, sync::atomic::Ordering::SeqCst};

use mini_guest::{IdleMode, Job, JobKind, Shared};

use crate::{
    apic,
    console::Console,
    cpu, sender,
    status::{fail, STATUS_OK},
    target,
};

/// About a minute on any CPU of these days.
const PATIENCE: u64 = 200_000_000_000;

/// Interrupts each vCPU from vCPU 0, and ends the machine.
pub fn run(shared: &Shared, index: u32) -> ! {
    let vcpus = shared.vcpus.load(SeqCst);
    let targets = vcpus - 1;
    let job = Job {
        idle_mode: IdleMode::Halted,
        sends: targets,
        patience: PATIENCE,
        ..Job::new(JobKind::Ipi)
    };

    if apic::id() != index {
        fail(format_args!("vCPU {index} has APIC ID {}", apic::id()));
    }
    if index != 0 {
        target::wait(shared, &job, index);
        cpu::stop();
    }
    while shared.online.load(SeqCst) != vcpus {
        hint::spin_loop();
    }
    let _ = writeln!(Console::lock(), "mini-guest: {vcpus} vCPUs are up");
    sender::send(shared, &job);
    let lost = shared.lost.load(SeqCst);
    if lost != 0 {
        fail(format_args!("{lost} of {targets} interrupts were lost"));
    }
    let _ = writeln!(
        Console::lock(),
        "mini-guest: {targets} interrupts sent, none lost"
    );
    cpu::exit(STATUS_OK)
}
