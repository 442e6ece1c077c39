// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whatever KVM's irqfd can deliver, the guest gets as well if an eventfd is bound to the irqfd's.

use std::{fs, process::Command, sync::atomic::Ordering::SeqCst, time::Duration};

use anyhow::{ensure, Context as _, Result};
use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_irqchip, KvmIrqRouting, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;
use mini_guest::{Job, JobKind, Shared, DEVICE_VECTORS};
use pvirq::extension::{Extension, Route};
use pvirq_bench::inject::Injection;
use pvirq_protocol::ioctl::BottomHalfKind;
use serde_json::Value;
use vmm::spin::spin_until;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::{
    jobs::{agree, machine, LIMIT},
    ktap::{Context, Outcome, Test, Twice},
    posts::is_pvirq,
};

pub const TESTS: &[Test] = &[
    ("a pin of the 8259A by way of a sink", |context| {
        sink(context, Pin::Pic)
    }),
    (
        "a level-triggered pin of the IOAPIC, with resample, by way of a sink",
        |context| sink(context, Pin::Level),
    ),
    ("an MSI by way of a sink", |context| sink(context, Pin::Msi)),
    ("an NMI by way of a sink", |context| sink(context, Pin::Nmi)),
    (
        "pvirq bench inject interrupts all targets, by all mechanisms",
        bench_inject,
    ),
];

fn bench_inject(context: &Context) -> Result<Outcome> {
    if !is_pvirq(context) {
        return Ok(Outcome::Skip("it takes both devices"));
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("inject.json");
    let output = Command::new(&context.command)
        .args(["bench", "inject", "--burst", "64", "--signals", "burst"])
        .args(["--events", "64", "--json"])
        .arg(&path)
        .output()
        .with_context(|| format!("cannot run {}", context.command.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);

    let report: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let rows = report["rows"].as_array().context("no rows")?;
    // Each mechanism interrupts five targets.
    ensure!(
        rows.len() == 5 * Injection::ALL.len(),
        "{} rows",
        rows.len()
    );
    for row in rows {
        ensure!(
            row["lost"] == 0 && row["delivered"] == row["events"],
            "{row}"
        );
        let number = |name: &str| row[name].as_f64().context(name.to_owned());
        // One interrupt for a burst at least, and one for each signal at most.
        ensure!(number("handled")? * 64.0 >= number("events")?, "{row}");
        ensure!(number("handled")? <= number("events")?, "{row}");
        ensure!(row["cycles_per_burst"]["p50"] != 0, "{row}");
    }
    Ok(Outcome::Pass)
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
        let pin = |irqchip| kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip {
                irqchip,
                pin: self.gsi(),
            },
        };
        let message = |data| kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: 0xfee0_0000 | ((TARGET as u32) << 12),
                data,
                ..Default::default()
            },
        };
        let (type_, u) = match self {
            Pin::Pic => (KVM_IRQ_ROUTING_IRQCHIP, pin(KVM_IRQCHIP_PIC_MASTER)),
            Pin::Level => (KVM_IRQ_ROUTING_IRQCHIP, pin(KVM_IRQCHIP_IOAPIC)),
            Pin::Msi => (KVM_IRQ_ROUTING_MSI, message(Pin::MSI_VECTOR.into())),
            // The delivery mode.
            Pin::Nmi => (KVM_IRQ_ROUTING_MSI, message(4 << 8)),
        };
        kvm_irq_routing_entry {
            gsi: self.gsi(),
            type_,
            u,
            ..Default::default()
        }
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

    let routing = KvmIrqRouting::from_entries(&Pin::ALL.map(Pin::route)).context("routes")?;
    vm.set_gsi_routing(&routing).context("KVM_SET_GSI_ROUTING")
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

fn sink(context: &Context, pin: Pin) -> Result<Outcome> {
    deliver(context, pin, None).context("by KVM's irqfd itself")?;
    if !is_pvirq(context) {
        return Ok(Outcome::Pass);
    }
    for kind in [BottomHalfKind::Tasklet, BottomHalfKind::Workqueue] {
        deliver(context, pin, Some(kind)).with_context(|| format!("by a sink and {kind:?}"))?;
    }
    Ok(Outcome::Pass)
}
