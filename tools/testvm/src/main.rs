// SPDX-License-Identifier: GPL-2.0

//! Boots a stock kernel in QEMU or Bochs, runs a command in it, and judges the run.
//!
//! The virtual machine starts from an initramfs that holds busybox and KVM's modules, mounts the source tree at
//! `/pvirq`, runs the command there, and powers off. What the command prints arrives apart from the kernel's messages,
//! which go to a log file; files that it writes below `/pvirq/build` are in the source tree afterwards. The run succeeds
//! if the command does, the kernel reported nothing wrong in its log, and, where the command speaks KTAP, no test failed.
//!
//! It runs inside the toolchain root file system, where QEMU, virtiofsd and xorriso are; the script beside it sees to that.

mod accel;
mod bochs;
mod console;
mod disk;
mod ground;
mod initramfs;
mod ktap;
mod process;
mod qemu;
mod run;
mod started;
mod symbols;
mod vm;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{
    accel::Accel,
    ground::{Bochs, Choice, Ground},
    run::{Outcome, Run},
    vm::Vm,
};

/// Exit status of a run that is bad for another reason than the command's own status.
const BAD_RUN: u8 = 1;

/// How often a run is tried in all when the emulator fails.
const ATTEMPTS: u32 = 3;

/// Lines of the kernel's first report that are shown, symbolised.
const REPORT_LINES: usize = 60;

/// Exit status where there was no run.
const BAD_START: u8 = 2;

/// Runs a command in a virtual machine with the stock kernel, or a shell if there is no command.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The source tree, seen as /pvirq in the machine
    #[arg(long, value_name = "DIR")]
    top: PathBuf,

    /// The kernel's cache entry, as tools/env/kernel makes it
    #[arg(long, value_name = "DIR")]
    kernel: PathBuf,

    /// The toolchain root file system
    #[arg(long, value_name = "DIR")]
    rootfs: PathBuf,

    /// What the machine runs on
    #[arg(long, value_enum, default_value_t = Choice::Qemu)]
    ground: Choice,

    /// Bochs's cache entry, as tools/env/emulator makes it
    #[arg(long, value_name = "DIR", required_if_eq("ground", "bochs"))]
    bochs: Option<PathBuf>,

    /// The toolchain's disk for Bochs, as tools/env/toolchain-disk makes it
    #[arg(long, value_name = "FILE")]
    toolchain_disk: Option<PathBuf>,

    /// Gives the machine the toolchain's /usr and /etc, for programs that live there
    #[arg(long)]
    toolchain: bool,

    /// Name of the run; its files go to build/vm/NAME
    #[arg(long, default_value = "default", value_parser = valid_name)]
    name: String,

    /// Number of CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// Memory, as QEMU takes it
    #[arg(long, default_value = "2G")]
    memory: String,

    /// Seconds, by this machine's clock, after which the machine counts as hung
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// How the CPUs run on QEMU: on hardware that can nest, or on TCG
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,

    /// CPU model, as QEMU or Bochs takes it
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,

    /// More arguments for the kernel
    #[arg(
        long,
        value_name = "ARGUMENTS",
        default_value = "",
        allow_hyphen_values = true
    )]
    append: String,

    /// Reads the command's output as KTAP: counts tests, and fails if one fails or none ran
    #[arg(long)]
    ktap: bool,

    /// The command and its arguments, joined by spaces and run by the machine's shell in /pvirq
    #[arg(last = true)]
    command: Vec<String>,
}

fn valid_name(name: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(valid) {
        return Err("a name has letters, digits, '-', '_' and '.' only".into());
    }
    Ok(name.into())
}

/// Passes the command's output on to the terminal as it comes, and keeps the lines for KTAP.
fn relay(output: Box<dyn Read + Send>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();

    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        // The reader may be gone; the run goes on, because its files still matter.
        let _ = io::stdout().write_all(&line);
        let _ = io::stdout().flush();
        lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
    lines
}

/// Runs the machine; again, and with a word about it, if the emulator's known defect ended the run.
fn run_past_emulator(vm: &Vm) -> Result<(Run, String)> {
    let mut attempt = 1;
    loop {
        let run = vm.run(relay)?;
        let log = vm.kernel_log(run.outcome)?;
        if !matches!(vm.ground, Ground::Qemu(Accel::Tcg))
            || attempt == ATTEMPTS
            || !console::stale_int3(&log)
        {
            return Ok((run, log));
        }
        let kept = vm.dir.join(format!("console.{attempt}.log"));
        fs::rename(vm.console_log(), &kept)?;
        eprintln!(
            "testvm: TCG ran a stale int3 (Documentation/smp-guests.rst), trying again; log: {}",
            kept.display()
        );
        println!("# testvm: the emulator failed, all over again");
        attempt += 1;
    }
}

/// Runs the machine and returns the exit status: the command's own, or [`BAD_RUN`] if the run is bad all the same.
fn run(args: Args) -> Result<u8> {
    let dir = args.top.join("build/vm").join(&args.name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;

    let ground = match args.ground {
        Choice::Qemu => Ground::Qemu(args.accel.resolve()?),
        Choice::Bochs => Ground::Bochs(Bochs {
            entry: args.bochs.context("--bochs is missing")?,
            rootfs: args.rootfs.clone(),
        }),
    };
    let toolchain = match args.ground {
        Choice::Qemu => Some(args.rootfs.clone()),
        Choice::Bochs => args.toolchain_disk,
    };
    let vm = Vm {
        initramfs: initramfs::build(&args.kernel, &args.rootfs, &ground, &dir)?,
        kernel: args.kernel.join("vmlinuz"),
        ground,
        top: args.top,
        toolchain: toolchain.filter(|_| args.toolchain),
        cpus: args.cpus,
        cpu: args.cpu,
        memory: args.memory,
        timeout: Duration::from_secs(args.timeout),
        append: args.append,
        command: args.command.join(" "),
        dir,
    };
    eprintln!("testvm: {}: {vm}", args.name);
    let (run, log) = run_past_emulator(&vm)?;
    let reports = console::reports(&log);

    let (mut status, mut show_log) = match run.outcome {
        Outcome::Exited(status) => (u8::try_from(status).unwrap_or(BAD_RUN), false),
        Outcome::NoStatus(emulator) => {
            let why = console::last_words(&console::read(&vm.emulator_log())?);
            eprintln!(
                "testvm: the machine stopped before the command ended{why}; the emulator: {emulator}"
            );
            (BAD_RUN, true)
        }
        Outcome::TimedOut => {
            eprintln!(
                "testvm: no end within {} s: the machine hung, or --timeout is too short",
                vm.timeout.as_secs()
            );
            (BAD_RUN, true)
        }
    };
    if let Some(excerpt) = console::excerpt(&log, REPORT_LINES) {
        let modules = vm.top.join("build/module-debug");
        eprintln!("testvm: the kernel's first report:");
        eprintln!("{}", symbols::symbolise(&excerpt, &args.kernel, &modules));
    }
    for report in &reports {
        eprintln!("testvm: the kernel reported: {report}");
        show_log = true;
    }
    if args.ktap {
        let mut tally = ktap::Tally::of(run.lines.iter().map(String::as_str));
        if status != 0 && tally.failed == 0 {
            // The run died between two tests, or ended badly after the last one.
            tally.failed = 1;
        }
        tally.failed += reports.len();
        println!("{tally}");
        if tally.failed > 0 || tally.passed == 0 {
            status = status.max(BAD_RUN);
        }
    }
    if show_log {
        status = status.max(BAD_RUN);
        eprintln!(
            "testvm: end of the console log, {}:",
            vm.console_log().display()
        );
        for line in console::tail(&log, 25) {
            eprintln!("    {line}");
        }
    }
    Ok(status)
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("testvm: {error:#}");
            ExitCode::from(BAD_START)
        }
    }
}
