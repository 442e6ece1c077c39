// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whatever KVM's irqfd can deliver, the guest gets as well if an eventfd is bound to the irqfd's.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use anyhow::{ensure, Context as _, Result};
use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irqchip, KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER, KVM_IRQ_ROUTING_IRQCHIP,
};
use kvm_ioctls::VmFd;
use mini_guest::{Job, JobKind, Shared, DEVICE_VECTORS};
use pvirq::extension::{Extension, Route};
use pvirq_bench::inject::{Inject, Injection};
use pvirq_protocol::ioctl::BottomHalfKind;
use vmm::{msi, spin::spin_until};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::{
    jobs::{agree, machine, LIMIT},
    ktap::{test, Context, Test, Twice},
    tool::{bench, number},
};

pub fn tests() -> Vec<Test> {
    vec![
        test("a pin of the 8259A by way of a sink", |context| {
            sink(context, Pin::Pic)
        }),
        test(
            "a level-triggered pin of the IOAPIC, with resample, by way of a sink",
            |context| sink(context, Pin::Level),
        ),
        test("an MSI by way of a sink", |context| sink(context, Pin::Msi)),
        test("an NMI by way of a sink", |context| sink(context, Pin::Nmi)),
        test(
            "pvirq bench inject interrupts all targets, by all mechanisms",
            bench_inject,
        ),
    ]
}

fn bench_inject(context: &Context) -> Result<()> {
    context.needs_pvirq("it takes both devices")?;
    let results = bench(context, "inject --burst 64 --signals burst --events 64")?;
    let count = Inject::TARGETS.len() * Injection::ALL.len();
    ensure!(
        results.rows().len() == count,
        "{} rows",
        results.rows().len()
    );
    for row in results.rows() {
        ensure!(row["delivered"] == row["events"], "{row}");
        // One interrupt for a burst at least, and one for each signal at most.
        let (handled, events) = (number(row, "/handled")?, number(row, "/events")?);
        ensure!(handled * 64.0 >= events && handled <= events, "{row}");
        ensure!(row["cycles_per_burst"]["p50"] != 0, "{row}");
    }
    Ok(())
}

/// The vCPU that is interrupted.
const TARGET: usize = 1;
const ROUNDS: u32 = 100;
/// How long an interrupt may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where an irqfd leads.
#[derive(Clone, Copy)]
enum Pin {
    Pic = 5,
    Level = 20,
    Msi = 24,
    Nmi = 25,
}

impl Pin {
    const ALL: [Pin; 4] = [Pin::Pic, Pin::Level, Pin::Msi, Pin::Nmi];
    /// That of the 8259A's first pin.
    const PIC_BASE: u8 = DEVICE_VECTORS.start;
    const LEVEL_VECTOR: u8 = DEVICE_VECTORS.start + 8;
    const MSI_VECTOR: u8 = DEVICE_VECTORS.start + 9;

    fn gsi(self) -> u32 {
        self as u32
    }

    fn route(self) -> kvm_irq_routing_entry {
        let mut route = msi::route(self.gsi(), TARGET as u32, Pin::MSI_VECTOR);
        let irqchip = match self {
            Pin::Pic => KVM_IRQCHIP_PIC_MASTER,
            Pin::Level => KVM_IRQCHIP_IOAPIC,
            Pin::Msi => return route,
            Pin::Nmi => {
                // The delivery mode.
                route.u.msi.data = 4 << 8;
                return route;
            }
        };
        route.type_ = KVM_IRQ_ROUTING_IRQCHIP;
        route.u.irqchip = kvm_irq_routing_irqchip {
            irqchip,
            pin: self.gsi(),
        };
        route
    }
}

/// Sets up the interrupt controllers, and all routes.
fn set_up(vm: &VmFd) -> Result<()> {
    let mut pic = kvm_irqchip {
        chip_id: KVM_IRQCHIP_PIC_MASTER,
        ..Default::default()
    };
    vm.get_irqchip(&mut pic)?;
    // Its interrupts go through, and end by themselves.
    pic.chip.pic.irq_base = Pin::PIC_BASE;
    pic.chip.pic.imr = 0;
    pic.chip.pic.auto_eoi = 1;
    pic.chip.pic.init4 = 1;
    vm.set_irqchip(&pic)?;

    let mut ioapic = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    let level_triggered = 1 << 15;
    vm.get_irqchip(&mut ioapic)?;
    // SAFETY: KVM has filled in that of an IOAPIC.
    unsafe {
        ioapic.chip.ioapic.redirtbl[Pin::Level as usize].bits =
            u64::from(Pin::LEVEL_VECTOR) | level_triggered | ((TARGET as u64) << 56);
    }
    vm.set_irqchip(&ioapic)?;

    Ok(msi::set_routes(vm, &Pin::ALL.map(Pin::route))?)
}

fn eventfd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).context("an eventfd")
}

/// Signals `source` again and again, each time until the target has had an interrupt and, where there is a `resample`, has
/// ended it: until then a level-triggered pin is asserted. Says how often it had.
fn signal(shared: &Shared, source: &EventFd, resample: Option<&EventFd>) -> u32 {
    let slot = &shared.slots[TARGET];
    for round in 1..=ROUNDS {
        slot.sent.store(round.into(), SeqCst);
        let seen = source.write(1).is_ok()
            && spin_until(PATIENCE, || {
                slot.acknowledged.load(SeqCst) == u64::from(round)
            })
            && resample.is_none_or(|resample| spin_until(PATIENCE, || resample.read().is_ok()));
        if !seen {
            shared.stop.store(1, SeqCst);
            return round - 1;
        }
    }
    ROUNDS
}

/// Has the guest interrupted through a pin, by an eventfd that is KVM's irqfd, or one that is bound to that.
fn deliver(context: &Context, pin: Pin, by: Option<BottomHalfKind>) -> Result<()> {
    let mut machine = machine(context, 2, true)?;
    let source = eventfd()?;
    let resample = match pin {
        Pin::Level => Some(eventfd()?),
        _ => None,
    };
    let sink = match by {
        Some(_) => eventfd()?,
        None => source.try_clone()?,
    };
    let vm = machine.vm();
    set_up(vm)?;
    match &resample {
        Some(resample) => vm.register_irqfd_with_resample(&sink, resample, pin.gsi())?,
        None => vm.register_irqfd(&sink, pin.gsi())?,
    }
    if let Some(kind) = by {
        Extension::new(vm)?.bind(&source, &Route::to_sink(&sink).by(kind))?;
    }

    let job = Job {
        sends: ROUNDS,
        ..Job::new(JobKind::Inject)
    };
    let (counts, seen) = machine.run_job_with(&job, LIMIT, |shared| {
        signal(shared, &source, resample.as_ref())
    })?;
    agree(&counts)?;
    ensure!(seen == ROUNDS, "the guest has seen {seen} of {ROUNDS}");
    let slot = &machine.shared()?.slots[TARGET];
    let (interrupts, again) = (slot.interrupts.load(SeqCst), slot.duplicates.load(SeqCst));
    ensure!(
        interrupts == u64::from(ROUNDS) + again,
        "there were {interrupts} interrupts, {again} of them for nothing"
    );
    ensure!(again == 0, Twice);
    Ok(())
}

fn sink(context: &Context, pin: Pin) -> Result<()> {
    deliver(context, pin, None).context("by KVM's irqfd itself")?;
    if !context.is_pvirq() {
        return Ok(());
    }
    for kind in [BottomHalfKind::Tasklet, BottomHalfKind::Workqueue] {
        deliver(context, pin, Some(kind)).with_context(|| format!("by a sink and {kind:?}"))?;
    }
    Ok(())
}
