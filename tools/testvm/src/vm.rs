// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: what it is made of.

use std::{fmt, path::PathBuf, time::Duration};

use crate::ground::Ground;

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
