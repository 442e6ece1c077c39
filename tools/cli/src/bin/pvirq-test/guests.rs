// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Booting guests, and what happens when they fail.

use std::{io::Write, time::Duration};

use anyhow::{bail, ensure, Result};
use mini_guest::{Mode, MAX_VCPUS};
use pvirq::device::Device;
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
    ports::Transcript,
};

use crate::ktap::{test, Context, Test};

pub fn tests() -> Vec<Test> {
    vec![
        test("self-test, 1 vCPU", |context| self_test(context, 1)),
        test("self-test, 2 vCPUs", |context| self_test(context, 2)),
        test("self-test, 64 vCPUs", |context| self_test(context, 64)),
        test("two machines at once", two_machines),
        test("flat image", flat_image),
        test("port without a device", unanswered_port),
        test("shutdown is reported with the vCPU's state", shutdown),
        test("guest that spins is stopped", |context| {
            hang(context, &SPIN)
        }),
        test("guest that halts for good is stopped", |context| {
            hang(context, &HALT)
        }),
        test("too many vCPUs are refused", too_many_vcpus),
    ]
}

/// mov $'h', %al; mov $0x3f8, %dx; out %al, %dx; mov $42, %al; mov $0xf4, %dx; out %al, %dx; hlt
const HELLO: [u8; 15] = [
    0xb0, b'h', 0x66, 0xba, 0xf8, 0x03, 0xee, 0xb0, 42, 0x66, 0xba, 0xf4, 0x00, 0xee, 0xf4,
];
/// mov $0x510, %dx; in %dx, %al; mov $0xf4, %dx; out %al, %dx; hlt
const READ: [u8; 11] = [
    0x66, 0xba, 0x10, 0x05, 0xec, 0x66, 0xba, 0xf4, 0x00, 0xee, 0xf4,
];
/// ud2, without an IDT
const TRIPLE_FAULT: [u8; 2] = [0x0f, 0x0b];
/// 1: jmp 1b
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// 1: hlt; jmp 1b
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// Makes a machine for an image, and what its console writes to.
fn machine(context: &Context, image: &Image, vcpus: usize) -> Result<(Machine, Transcript)> {
    let device = Device::open(&context.device)?;
    let config = Config {
        image,
        memory: 16 << 20,
        cpus: &CpuList::allowed()?.in_turn(vcpus),
        mode: Mode::SelfTest,
        pv_eoi: false,
        count: false,
    };
    let console = Transcript::default();
    Ok((
        Machine::with_console(&device, &config, Box::new(console.clone()))?,
        console,
    ))
}

/// Makes an image of machine code.
fn flat(code: &[u8]) -> Result<Image> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(code)?;
    Ok(Image::from_file(file.path())?)
}

fn self_test(context: &Context, vcpus: usize) -> Result<()> {
    let (mut machine, console) = machine(context, &Image::mini_guest(), vcpus)?;
    let status = machine.run()?;
    let text = console.text();
    ensure!(status == 0, "status {status}: {text}");
    ensure!(text.contains(&format!("{vcpus} vCPUs are up")), "{text}");
    ensure!(
        text.contains(&format!("{} interrupts sent, none lost", vcpus - 1)),
        "{text}"
    );
    Ok(())
}

fn two_machines(context: &Context) -> Result<()> {
    let image = Image::mini_guest();
    let (mut one, _) = machine(context, &image, 2)?;
    let (mut other, _) = machine(context, &image, 3)?;
    let statuses = std::thread::scope(|scope| {
        let one = scope.spawn(|| one.run());
        let other = scope.spawn(|| other.run());
        [one, other].map(|thread| thread.join())
    });
    for status in statuses {
        match status {
            Ok(status) => ensure!(status? == 0, "a self-test failed"),
            Err(_) => bail!("a thread panicked"),
        }
    }
    Ok(())
}

fn flat_image(context: &Context) -> Result<()> {
    let (mut machine, console) = machine(context, &flat(&HELLO)?, 1)?;
    let status = machine.run()?;
    ensure!(status == 42, "status {status}");
    ensure!(console.text() == "h", "console {:?}", console.text());
    Ok(())
}

fn unanswered_port(context: &Context) -> Result<()> {
    let (mut machine, _) = machine(context, &flat(&READ)?, 1)?;
    let status = machine.run()?;
    ensure!(status == 0xff, "read {status:#x}");
    Ok(())
}

fn shutdown(context: &Context) -> Result<()> {
    let (mut machine, _) = machine(context, &flat(&TRIPLE_FAULT)?, 2)?;
    match machine.run() {
        Err(error @ Error::Guest { .. }) => {
            let text = error.to_string();
            ensure!(text.contains("KVM_EXIT_SHUTDOWN"), "{text}");
            // Registers are reset by the shutdown on some CPUs, but are shown.
            ensure!(text.contains("rip") && text.contains("cr3"), "{text}");
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}

fn hang(context: &Context, code: &[u8]) -> Result<()> {
    let (mut machine, _) = machine(context, &flat(code)?, 2)?;
    match machine.run_job(None, Duration::from_millis(500)) {
        Err(error @ Error::Hung { .. }) => {
            let text = error.to_string();
            ensure!(
                text.contains("vCPU 0:\n") && text.contains("vCPU 1:\n"),
                "{text}"
            );
            ensure!(text.contains("rip 000000000010000"), "{text}");
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}

fn too_many_vcpus(context: &Context) -> Result<()> {
    match machine(context, &Image::mini_guest(), MAX_VCPUS + 1) {
        Err(error) if matches!(error.downcast_ref(), Some(Error::VcpuCount { .. })) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => bail!("it was made"),
    }
}
