// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: what it is made of, its run, its end.

use std::{
    fmt, fs,
    io::Read,
    path::PathBuf,
    process::ExitStatus,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    bochs, console,
    ground::Ground,
    process::Process,
    qemu::{self, FileServer},
};

/// For how many seconds the kernel waits before it reports what is stuck. A machine at work may leave a CPU of the test VM
/// waiting for longer than it usually does. What is lost is lost for good.
const PATIENCE: &str =
    "watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60 workqueue.watchdog_thresh=60";

/// What a machine is made of, and what it is to run.
pub struct Vm {
    /// Directory of the run's files.
    pub dir: PathBuf,
    /// The source tree; `/pvirq` in the machine.
    pub top: PathBuf,
    /// The toolchain's file system, where the machine is to have it: a directory for QEMU, a disk for Bochs.
    pub toolchain: Option<PathBuf>,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What runs the CPUs.
    pub ground: Ground,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU model, where it is not the ground's best.
    pub cpu: Option<String>,
    /// Memory, as QEMU takes it.
    pub memory: String,
    /// Limit on the machine's life.
    pub timeout: Duration,
    /// More arguments for the kernel.
    pub append: String,
    /// Shell command; a shell on the terminal where it is empty.
    pub command: String,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this status, and the machine powered off.
    Exited(i32),
    /// The emulator ended, and the command had left no status.
    NoStatus(ExitStatus),
    /// The machine outlived its limit and was stopped.
    TimedOut,
}

/// What a run left.
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What the command printed.
    pub lines: Vec<String>,
}

/// A machine that runs.
pub struct Started {
    /// The emulator.
    pub process: Process,
    /// What the command prints, unless it has the terminal.
    pub output: Option<Box<dyn Read + Send>>,
    /// What takes the results out of the machine, where the machine does not write them to the source tree itself.
    pub receiver: Option<JoinHandle<Result<()>>>,
    /// What must live as long as the machine.
    pub servers: Vec<FileServer>,
}

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flavour = if self.toolchain.is_some() {
            ", with the toolchain"
        } else {
            ""
        };
        write!(f, "{} CPUs on {}", self.cpus, self.ground)?;
        if let Some(cpu) = &self.cpu {
            write!(f, " ({cpu})")?;
        }
        write!(f, ", {} memory{flavour}", self.memory)
    }
}

impl Vm {
    /// Where the kernel's messages go.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Where the emulator says what it has to.
    pub fn emulator_log(&self) -> PathBuf {
        self.dir.join(match self.ground {
            Ground::Qemu(_) => "qemu.log",
            Ground::Bochs(_) => "bochs.log",
        })
    }

    /// Boots the machine, waits for its end or its limit, and returns what it left. `relay` reads what the command
    /// prints until there is no more.
    ///
    /// # Errors
    ///
    /// The emulator, or what it needs, could not be started, or the results could not be taken out.
    pub fn run(&self, relay: fn(Box<dyn Read + Send>) -> Vec<String>) -> Result<Run> {
        let status = self.dir.join("status");
        if status.exists() {
            fs::remove_file(&status)?;
        }
        fs::write(self.dir.join("command"), &self.command)?;

        let Started {
            mut process,
            output,
            receiver,
            servers,
        } = match &self.ground {
            Ground::Qemu(accel) => qemu::start(self, *accel)?,
            Ground::Bochs(bochs) => bochs::start(self, bochs)?,
        };
        let output = output.map(|output| thread::spawn(move || relay(output)));
        let ended = process.wait(self.timeout)?;
        // Closes the emulator's end of the pipe, so that the readers end.
        drop(process);
        if let Some(receiver) = receiver {
            receiver
                .join()
                .expect("the receiver does not panic")
                .context("cannot take the results out of the machine")?;
        }
        let lines = output
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        drop(servers);
        let status = fs::read_to_string(status)
            .ok()
            .and_then(|text| text.trim().parse().ok());

        Ok(Run {
            outcome: match (ended, status) {
                (_, Some(status)) => Outcome::Exited(status),
                (Some(emulator), None) => Outcome::NoStatus(emulator),
                (None, None) => Outcome::TimedOut,
            },
            lines,
        })
    }

    /// The kernel's messages of a run that has ended as `outcome` says.
    ///
    /// # Errors
    ///
    /// A log cannot be read.
    pub fn kernel_log(&self, outcome: Outcome) -> Result<String> {
        let mut log = console::read(&self.console_log())?;
        if matches!(self.ground, Ground::Bochs(_)) && !matches!(outcome, Outcome::Exited(_)) {
            // The last words, which no process has sent any more.
            log += &console::read(&self.dir.join(bochs::SERIAL_LOG))?;
        }
        Ok(log)
    }

    /// The kernel's arguments on any ground.
    pub fn kernel_arguments(&self, of_ground: &str) -> String {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let ground = self.ground.name();
        let mut arguments = format!(
            "console=ttyS0 panic=-1 oops=panic printk.devkmsg=on {PATIENCE} testvm.run={name} testvm.ground={ground}"
        );
        if self.toolchain.is_some() {
            arguments += " testvm.toolchain";
        }
        for more in [of_ground, &self.append] {
            if !more.is_empty() {
                arguments += " ";
                arguments += more;
            }
        }
        arguments
    }
}
