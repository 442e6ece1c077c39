// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: its QEMU, its file servers, its end.

use std::{
    fmt, fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::accel::Accel;

/// TCG's CPU. While the kernel identifies the boot CPU it forgets for a moment that there are five levels of page tables,
/// and KASAN then takes the memory of an interrupt handler for a wild pointer's. Four levels are cheaper to walk, too.
const TCG_CPU: &str = "max,-la57";

/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(20);

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
    /// The toolchain root file system, where the machine is to have it.
    pub rootfs: Option<PathBuf>,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What runs the CPUs.
    pub accel: Accel,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU model, where it is not the accelerator's best.
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
    /// QEMU ended, and the command had left no status.
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

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flavour = if self.rootfs.is_some() {
            ", with the toolchain"
        } else {
            ""
        };
        write!(
            f,
            "{} CPUs on {}, {} memory{flavour}",
            self.cpus, self.accel, self.memory
        )
    }
}

impl Vm {
    /// Where the kernel's messages go.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Where QEMU says why a CPU was reset.
    pub fn qemu_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    /// Boots the machine, waits for its end or its limit, and returns what it left. `relay` reads what the command
    /// prints until there is no more.
    ///
    /// # Errors
    ///
    /// QEMU or virtiofsd could not be started.
    pub fn run(&self, relay: fn(ChildStdout) -> Vec<String>) -> Result<Run> {
        let status = self.dir.join("status");
        if status.exists() {
            fs::remove_file(&status)?;
        }
        fs::write(self.dir.join("command"), &self.command)?;

        let mut servers = vec![FileServer::start(&self.dir, "pvirq", &self.top, false)?];
        if let Some(rootfs) = &self.rootfs {
            servers.push(FileServer::start(&self.dir, "rootfs", rootfs, true)?);
        }
        let mut qemu = self.qemu(&servers)?;
        let output = qemu
            .0
            .stdout
            .take()
            .map(|output| thread::spawn(move || relay(output)));
        let ended = qemu.wait(self.timeout)?;
        // Closes QEMU's end of the pipe, so that the reader ends.
        drop(qemu);
        let lines = output
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        let status = fs::read_to_string(status)
            .ok()
            .and_then(|text| text.trim().parse().ok());

        Ok(Run {
            outcome: match (ended, status) {
                (_, Some(status)) => Outcome::Exited(status),
                (Some(qemu), None) => Outcome::NoStatus(qemu),
                (None, None) => Outcome::TimedOut,
            },
            lines,
        })
    }

    fn qemu(&self, servers: &[FileServer]) -> Result<Process> {
        let interactive = self.command.is_empty();
        let mut qemu = Command::new("qemu-system-x86_64");

        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "q35",
        ]);
        qemu.args(match self.accel {
            Accel::Kvm => [
                "-accel",
                "kvm",
                "-cpu",
                self.cpu.as_deref().unwrap_or("host"),
            ],
            Accel::Auto | Accel::Tcg => [
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                self.cpu.as_deref().unwrap_or(TCG_CPU),
            ],
        });
        qemu.arg("-smp").arg(self.cpus.to_string());
        // vhost-user file servers map the machine's memory.
        qemu.arg("-m").arg(&self.memory);
        qemu.arg("-object").arg(format!(
            "memory-backend-memfd,id=ram,size={},share=on",
            self.memory
        ));
        qemu.args(["-machine", "memory-backend=ram"]);
        qemu.arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        qemu.arg("-append").arg(self.kernel_arguments());
        qemu.arg("-serial")
            .arg(format!("file:{}", self.console_log().display()));
        qemu.args([
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtconsole,chardev=terminal",
        ]);
        qemu.args(["-device", "virtio-rng-pci"]);
        qemu.args(["-d", "cpu_reset", "-D"]).arg(self.qemu_log());
        for server in servers {
            server.attach(&mut qemu);
        }
        if interactive {
            qemu.args(["-chardev", "stdio,id=terminal,signal=off"]);
        } else {
            qemu.args(["-chardev", "stdio,id=terminal,signal=on"]);
            qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        Ok(Process(
            qemu.spawn().context("cannot start qemu-system-x86_64")?,
        ))
    }

    fn kernel_arguments(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let mut arguments = format!(
            "console=ttyS0 panic=-1 oops=panic printk.devkmsg=on {PATIENCE} testvm.run={name}"
        );
        if self.rootfs.is_some() {
            arguments += " testvm.toolchain";
        }
        if self.accel == Accel::Tcg {
            // Its TSC is the host's own. The kernel would check that by an emulated clock that runs late on a busy machine,
            // call it unstable, and then KVM's guests have clocks that differ.
            arguments += " testvm.steady tsc=reliable";
        }
        if !self.append.is_empty() {
            arguments += " ";
            arguments += &self.append;
        }
        arguments
    }
}

/// A child that does not outlive its owner.
struct Process(Child);

impl Process {
    /// Waits for the end; none if it did not come in time.
    fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(TICK);
        }
        Ok(None)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either it has ended, or this ends it; there is nobody to tell of an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A virtiofsd that serves one directory to the machine.
struct FileServer {
    tag: &'static str,
    socket: PathBuf,
    _process: Process,
}

impl FileServer {
    fn start(dir: &Path, tag: &'static str, shared: &Path, readonly: bool) -> Result<Self> {
        // Socket addresses are short, and the run's directory may be deep.
        let socket = std::env::temp_dir().join(format!("{tag}.{}.sock", std::process::id()));
        let log = dir.join(format!("virtiofsd-{tag}.log"));
        let mut command = Command::new("/usr/libexec/virtiofsd");

        // It is listened to before virtiofsd runs: QEMU need not wait for that, nor can it come too early.
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        command.args(["--fd", "0"]).arg("--shared-dir").arg(shared);
        command.args([
            "--sandbox",
            "none",
            "--inode-file-handles=never",
            "--rlimit-nofile=0",
            "--cache",
        ]);
        command.arg(if readonly { "always" } else { "auto" });
        if readonly {
            command.arg("--readonly");
        }
        command
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let process = Process(command.spawn().context("cannot start virtiofsd")?);
        Ok(Self {
            tag,
            socket,
            _process: process,
        })
    }

    fn attach(&self, qemu: &mut Command) {
        let tag = self.tag;
        qemu.arg("-chardev")
            .arg(format!("socket,id={tag},path={}", self.socket.display()));
        qemu.arg("-device")
            .arg(format!("vhost-user-fs-pci,chardev={tag},tag={tag}"));
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}
