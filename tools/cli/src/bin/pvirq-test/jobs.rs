// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Interrupts between vCPUs, and the counting of exits.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use anyhow::{bail, ensure, Result};
use exit_count::{exits::Reason, kvm_module::Parameters};
use mini_guest::{
    IdleMode::{self, Busy, Halted},
    Job, JobKind,
    Mechanism::{self, PvIpi, X2Apic},
    Mode,
    Pattern::{self, Broadcast, Unicast},
};
use pvirq::device::Device;
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
    vcpu::Counts,
};

use crate::ktap::{test, Context, Skip, Test, Twice};

pub fn tests() -> Vec<Test> {
    let mechanisms = [("x2APIC interrupts", X2Apic), ("PV IPIs", PvIpi)];
    let kinds = [
        ("a busy vCPU", 2, Unicast, Busy),
        ("a halted vCPU", 2, Unicast, Halted),
        ("vCPUs in turn", 5, Unicast, Halted),
        ("all vCPUs", 5, Broadcast, Halted),
    ];
    let ipis = mechanisms.into_iter().flat_map(|(what, mechanism)| {
        kinds.map(|(targets, vcpus, pattern, idle_mode)| {
            test(format!("{what} to {targets}"), move |context| {
                ipi(context, vcpus, mechanism, pattern, idle_mode)
            })
        })
    });
    let others = [
        test("exits to user space are counted", exits_to_user_space),
        test("EOIs cost an exit without KVM's paravirtual one", eoi),
        test("interrupts that are late count as lost", lost),
        test("exceptions are reported", exception),
        test("an interrupt that was masked is reported", masked_interrupt),
        test("unknown jobs are refused", unknown_job),
    ];
    ipis.chain(others).collect()
}

pub const LIMIT: Duration = Duration::from_secs(120);
/// Cycles: about a minute.
const PATIENCE: u64 = 200_000_000_000;
const SENDS: u32 = 40;

/// A job with all that a test does not care about.
pub fn job(kind: JobKind) -> Job {
    Job {
        idle_mode: IdleMode::Halted,
        sends: SENDS,
        patience: PATIENCE,
        ..Job::new(kind)
    }
}

/// Makes a machine whose vCPUs are parked, the first of them alone on its CPU.
pub fn machine(context: &Context, vcpus: usize, pv_eoi: bool) -> Result<Machine> {
    machine_on(context, &CpuList::allowed()?.first_alone(vcpus), pv_eoi)
}

/// Makes a machine whose vCPUs are parked on these CPUs.
pub fn machine_on(context: &Context, cpus: &[usize], pv_eoi: bool) -> Result<Machine> {
    let device = Device::open(&context.device)?;
    let config = Config {
        image: &Image::mini_guest(),
        memory: 16 << 20,
        cpus,
        mode: Mode::Jobs,
        pv_eoi,
        count: true,
    };
    let mut machine = Machine::new(&device, &config)?;
    agree(&machine.run_job(None, LIMIT)?)?;
    Ok(machine)
}

/// Checks that both sources of counts say the same, and that each vCPU has parked.
pub fn agree(counts: &[Counts]) -> Result<()> {
    for (vcpu, count) in counts.iter().enumerate() {
        count.exits(vcpu, 1)?;
    }
    Ok(())
}

fn ipi(
    context: &Context,
    vcpus: usize,
    mechanism: Mechanism,
    pattern: Pattern,
    idle_mode: IdleMode,
) -> Result<()> {
    let mut machine = machine(context, vcpus, true)?;
    let job = Job {
        mechanism,
        pattern,
        idle_mode,
        ..job(JobKind::Ipi)
    };
    // Twice, because the second job must not see anything of the first.
    for _ in 0..2 {
        let counts = machine.run_job(Some(&job), LIMIT)?;
        let targets = vcpus as u32 - 1;
        let shared = machine.shared()?;
        let (delivered, lost) = (shared.events.load(SeqCst), shared.lost.load(SeqCst));
        ensure!(
            (delivered, lost) == (job.events(targets), 0),
            "{delivered} delivered, {lost} lost"
        );
        for target in 1..=targets {
            let slot = &shared.slots[target as usize];
            let expected = match pattern {
                Pattern::Unicast => SENDS / targets,
                Pattern::Broadcast => SENDS,
            };
            let interrupts = slot.interrupts.load(SeqCst);
            let duplicates = slot.duplicates.load(SeqCst);
            ensure!(
                interrupts == u64::from(expected) + duplicates,
                "vCPU {target} was interrupted {interrupts} times, {duplicates} of them for nothing"
            );
            ensure!(duplicates == 0, Twice);
        }
        ensure!(
            (0..delivered as usize).all(|event| shared.cycles[event].load(SeqCst) != 0),
            "an event took no time"
        );
        agree(&counts)?;
        if Parameters::detect().virtual_ipi == Some(true) {
            // The CPU sends interrupts itself.
            continue;
        }
        let sender = counts[0].trace;
        let (used, unused) = match mechanism {
            Mechanism::X2Apic => (sender[Reason::Msr], sender[Reason::Hypercall]),
            Mechanism::PvIpi => (sender[Reason::Hypercall], sender[Reason::Msr]),
            Mechanism::Pvirq => bail!("this test is not for pvirq"),
        };
        ensure!(
            (used, unused) == (SENDS.into(), 0),
            "the sender had {used} exits to send, and {unused} others"
        );
    }
    Ok(())
}

fn exits_to_user_space(context: &Context) -> Result<()> {
    let mut machine = machine(context, 2, true)?;
    let counts = machine.run_job(Some(&job(JobKind::Exit)), LIMIT)?;
    agree(&counts)?;
    let io = [counts[0].trace[Reason::Io], counts[1].trace[Reason::Io]];
    // One more each, to park.
    ensure!(io == [u64::from(SENDS) + 1, 1], "{io:?} exits");
    Ok(())
}

fn eoi(context: &Context) -> Result<()> {
    if Parameters::detect().virtual_apic == Some(true) {
        bail!(Skip("the CPU ends interrupts itself"));
    }
    let mut machine = machine(context, 2, false)?;
    let counts = machine.run_job(Some(&job(JobKind::Ipi)), LIMIT)?;
    agree(&counts)?;
    let msr = counts[1].trace[Reason::Msr];
    ensure!(msr == u64::from(SENDS), "{msr} exits by EOI");
    Ok(())
}

fn lost(context: &Context) -> Result<()> {
    let mut machine = machine(context, 3, true)?;
    // No target is as fast as that, unless the sender is interrupted at the right moment, which is not always.
    machine.run_job(
        Some(&Job {
            patience: 1,
            pattern: Pattern::Broadcast,
            ..job(JobKind::Ipi)
        }),
        LIMIT,
    )?;
    let lost = machine.shared()?.lost.load(SeqCst);
    ensure!((1..=2).contains(&lost), "{lost} lost");
    let console = machine.console();
    ensure!(console.contains("did not"), "the console says: {console}");
    // The machine goes on as if nothing had been.
    machine.run_job(Some(&job(JobKind::Ipi)), LIMIT)?;
    let shared = machine.shared()?;
    let (delivered, lost) = (shared.events.load(SeqCst), shared.lost.load(SeqCst));
    ensure!(
        (delivered, lost) == (SENDS.into(), 0),
        "then {delivered} delivered, {lost} lost"
    );
    Ok(())
}

fn exception(context: &Context) -> Result<()> {
    match machine(context, 2, true)?.run_job(Some(&job(JobKind::Crash)), LIMIT) {
        Err(Error::Ended { status: 2, console }) => {
            for part in [
                "page fault (vector 14) on vCPU 1",
                "rip 0x1",
                "error code 0x2",
                "cr2 0xffff800000000000",
            ] {
                ensure!(console.contains(part), "the console says: {console}");
            }
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}

fn masked_interrupt(context: &Context) -> Result<()> {
    match machine(context, 2, true)?.run_job(Some(&job(JobKind::Masked)), LIMIT) {
        Err(error) => {
            let text = error.to_string();
            ensure!(error.is_cpu_fault(), "{text}");
            ensure!(
                text.contains("interrupt while interrupts were off"),
                "{text}"
            );
            ensure!(text.contains("on vCPU 1"), "{text}");
            Ok(())
        }
        Ok(_) => bail!("the guest has not noticed"),
    }
}

fn unknown_job(context: &Context) -> Result<()> {
    let mut machine = machine(context, 2, true)?;
    machine.shared()?.clear_job();
    match machine.run_job(None, LIMIT) {
        Err(Error::Ended { status: 1, console }) => {
            ensure!(
                console.contains("there is no job"),
                "the console says: {console}"
            );
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}
