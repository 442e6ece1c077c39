// SPDX-License-Identifier: GPL-2.0

//! Keeps the test VM's kernel from patching its own code while tests run, until it is killed.
//!
//! Under TCG a CPU may execute a breakpoint of the kernel's code patching that is over already
//! (Documentation/smp-guests.rst). When the first VM comes and the last one goes, KVM flips static keys, in the scheduler
//! among other places; so does perf with the first event of a task, and the first event of a tracepoint. Tests make
//! them do so thousands of times. With one of each kept open here, nothing flips.

use std::{convert::Infallible, fs, io, process::ExitCode, ptr, thread};

use anyhow::{ensure, Context, Result};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use perf_event_open_sys::{bindings as perf, perf_event_open};

/// The tracepoints that the tools open.
const TRACEPOINTS: &[&str] = &[
    "kvm/kvm_exit",
    "kvm/kvm_hypercall",
    "kvm/kvm_msr",
    "irq_vectors/local_timer_entry",
    "irq_vectors/reschedule_entry",
    "irq_vectors/call_function_entry",
    "irq_vectors/call_function_single_entry",
    "irq_vectors/irq_work_entry",
];

/// A VM with a vCPU, which has a LAPIC or not: KVM counts those that have none, and those whose LAPIC is not enabled.
fn vm(kvm: &Kvm, lapic: bool) -> Result<(VmFd, VcpuFd)> {
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    if lapic {
        vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
    }
    let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    Ok((vm, vcpu))
}

/// Opens a tracepoint for this task, which is never running when it is hit. The descriptor lives as long as the process.
fn open(tracepoint: &str) -> Result<()> {
    let path = format!("/sys/kernel/tracing/events/{tracepoint}/id");
    let id = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut attributes = perf::perf_event_attr {
        type_: perf::PERF_TYPE_TRACEPOINT,
        size: size_of::<perf::perf_event_attr>() as u32,
        config: id.trim().parse().with_context(|| path)?,
        ..Default::default()
    };
    // SAFETY: The attributes are valid for the call, and no pointer is kept.
    let fd = unsafe { perf_event_open(ptr::from_mut(&mut attributes), 0, -1, -1, 0) };
    ensure!(
        fd >= 0,
        "perf_event_open of {tracepoint}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

fn keep() -> Result<Infallible> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let _vms = [vm(&kvm, false)?, vm(&kvm, true)?];
    TRACEPOINTS
        .iter()
        .try_for_each(|tracepoint| open(tracepoint))?;
    println!("steady");
    loop {
        thread::park();
    }
}

fn main() -> ExitCode {
    let Err(error) = keep();
    eprintln!("steady: {error:#}");
    ExitCode::FAILURE
}
