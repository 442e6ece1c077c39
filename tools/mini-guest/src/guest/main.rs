// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A guest without an operating system: it receives interrupts, sends them, and counts.
//!
//! # SSE and the red zone
//!
//! The guest is compiled for the host's target, whose `core` library uses SSE registers and the red zone below the
//! stack pointer. Both shape how it takes interrupts. Each interrupt and exception switches to a stack of its own by
//! the IST, so that the interrupted function's red zone survives. The one handler that returns, for IPIs, is written in
//! assembly and touches three general registers, which it saves, so there is no SSE state to save. Exceptions never
//! return: they are reported, and end the machine.
#![no_std]
#![no_main]

mod apic;
mod arrivals;
mod console;
mod cpu;
mod exception;
mod heal;
mod idle;
mod ipi;
mod mem;
mod pacer;
mod percpu;
mod polling;
mod pvirq;
mod self_test;
mod sender;
mod status;
mod stop;
mod storm;
mod survive;
mod target;

use core::{
    arch::global_asm,
    fmt::Write,
    panic::PanicInfo,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{port, Job, JobKind, Shared};

use crate::{
    console::Console,
    ipi::Hypercall,
    percpu::PerCpu,
    status::{fail, STATUS_CRASHED},
};

// The entry point of all vCPUs: takes the vCPU's own stack, and passes on what the VMM left in rdi and rsi.
global_asm!(
    ".globl start",
    "start:",
    "cmp rsi, {vcpus}",
    "jae 1f",
    "imul rax, rsi, {size}",
    "lea rsp, [rip + {areas}]",
    "lea rsp, [rsp + rax + {stack_end}]",
    "xor ebp, ebp",
    "call {main}",
    "1: cli",
    "hlt",
    "jmp 1b",
    vcpus = const mini_guest::MAX_VCPUS,
    size = const size_of::<PerCpu>(),
    areas = sym percpu::AREAS,
    stack_end = const PerCpu::STACK_END,
    main = sym main,
);

/// What every vCPU does.
extern "C" fn main(shared: &'static Shared, index: usize) -> ! {
    // SAFETY: This vCPU runs on the stack of area `index`, so no other one uses that area, and interrupts are off.
    unsafe { percpu::load(index) };
    exception::load_table();
    cpu::set_gs_base(&shared.slots[index]);
    let storm = core::ptr::from_ref(&shared.storms[index]);
    shared.slots[index].storm.store(storm as u64, Relaxed);
    let arrivals = core::ptr::from_ref(&shared.arrivals);
    shared.slots[index].arrivals.store(arrivals as u64, Relaxed);
    if let Some(ledger) = shared.survival.ledgers.get(index) {
        let ledger = core::ptr::from_ref(ledger);
        shared.slots[index].ledger.store(ledger as u64, Relaxed);
    }
    // Devices interrupt the first vCPU that does not send.
    apic::enable(index == 1);
    if shared.pv_eoi.load(Relaxed) != 0 {
        apic::enable_pv_eoi(&shared.slots[index].pv_eoi);
    }
    if index == 0 {
        ipi::init();
        // Pages that the guest has not touched cost an exit each. This is where the measurements go.
        shared
            .cycles
            .iter()
            .for_each(|cycles| cycles.store(0, Relaxed));
        // And this is where they are told from.
        shared
            .intervals
            .iter()
            .for_each(|interval| _ = interval.load(Relaxed));
    }
    shared.online.fetch_add(1, SeqCst);

    if !shared.serves_jobs() {
        self_test::run(shared, index as u32);
    }
    loop {
        // SAFETY: A write to this port has no effect on the guest's memory.
        unsafe { cpu::out(port::PARK, 0) };
        match shared.job() {
            Some(job) => do_job(shared, &job, index as u32),
            None => fail(format_args!(
                "there is no job, or one that this guest does not know"
            )),
        }
    }
}

/// Does this vCPU's part of a job.
fn do_job(shared: &'static Shared, job: &Job, index: u32) {
    match (index, job.kind) {
        (0, JobKind::Ipi) => sender::send(shared, job),
        // SAFETY: The port does nothing.
        (0, JobKind::Exit) => sender::exit(shared, job, || unsafe { cpu::out(port::NULL, 0) }),
        (0, JobKind::Hypercall) => sender::exit(shared, job, || Hypercall::new().nothing()),
        (0, JobKind::Host) => shared.set_answer(pvirq::ask(&shared.request())),
        (_, JobKind::Storm) => storm::run(shared, job, index),
        (_, JobKind::Survive) => survive::run(shared, job, index),
        (_, JobKind::Frozen) => stop::run(shared, job, index),
        (0, JobKind::Inject) => {}
        (_, JobKind::Ipi | JobKind::Inject) | (pacer::TARGET, JobKind::Wake) => {
            target::wait(shared, job, index)
        }
        (0, JobKind::Wake) => pacer::wake(shared, job),
        (0, JobKind::Arrivals) => arrivals::interrupt(shared, job),
        (arrivals::TARGET, JobKind::Arrivals) => arrivals::idle(shared, job),
        (0, JobKind::Tick) => arrivals::tick(shared, job),
        (arrivals::TARGET, JobKind::Tick) => arrivals::idle_on(shared, job),
        (_, JobKind::Host) => pvirq::greet(),
        (0, JobKind::Crash | JobKind::Masked)
        | (_, JobKind::Exit | JobKind::Hypercall | JobKind::Wake) => {}
        (_, JobKind::Arrivals | JobKind::Tick) => {}
        (_, JobKind::Crash) => cpu::touch_nothing(),
        (_, JobKind::Masked) => ipi::interrupt_masked(),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Console::seize(), "mini-guest: {info}");
    cpu::exit(STATUS_CRASHED)
}
