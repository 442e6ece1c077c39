// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq run`: boots a guest.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::{ensure, Result};
use mini_guest::{Mode, MAX_VCPUS};
use pvirq::device::{self, Device};
use vmm::{
    boot::{MEMORY_MAX, MEMORY_MIN},
    cpus::CpuList,
    image::Image,
    machine::{Config, Machine},
};

/// Boots a guest, with its serial console on the terminal
///
/// The guest is an ELF program or a flat image for address 0x100000. All of its vCPUs start at the entry point in
/// 64-bit mode, with their number in rsi. A byte written to port 0xf4 ends the machine and is the command's exit status.
#[derive(clap::Args)]
pub struct Args {
    /// The device that speaks the KVM API
    #[arg(long, default_value = device::KVM, value_name = "PATH")]
    device: PathBuf,

    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_VCPUS as i64))]
    vcpus: u8,

    /// Memory in MiB
    #[arg(long, default_value_t = 16, value_name = "MIB", value_parser = clap::value_parser!(u16).range((MEMORY_MIN >> 20) as i64..=(MEMORY_MAX >> 20) as i64))]
    memory: u16,

    /// CPUs for the vCPUs, which take them in turn, for example 0-3,8 [default: all]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// The guest [default: one that is built in, and tests itself]
    image: Option<PathBuf>,
}

/// Runs the guest to its end.
pub fn run(args: &Args) -> Result<ExitCode> {
    let image = args
        .image
        .as_deref()
        .map_or_else(|| Ok(Image::mini_guest()), Image::from_file)?;
    let cpus = args.cpus.clone().map_or_else(CpuList::allowed, Ok)?;
    ensure!(cpus.len() > 0, "there is no CPU to run on");
    let config = Config {
        image: &image,
        memory: usize::from(args.memory) << 20,
        cpus: &cpus.in_turn(args.vcpus.into()),
        mode: Mode::SelfTest,
        pv_eoi: false,
        count: false,
    };
    let device = Device::open(&args.device)?;
    let status = Machine::with_console(&device, &config, Box::new(io::stdout()))?.run()?;
    Ok(ExitCode::from(status))
}
