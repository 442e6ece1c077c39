// SPDX-License-Identifier: GPL-2.0

//! Machines on Bochs.
//!
//! Bochs has no virtio, so that files come on disks (see [`crate::disk`]), and what the machine has to say leaves it
//! through the emulator's debug port, in [frames](testvm::frame).
//!
//! Its clock counts instructions: with [`IPS`] a running CPU executes one in each nanosecond of the machine's time, and a
//! halted one costs nothing.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{bail, ensure, Context, Result};
use testvm::frame::{Kind, Parser};

use crate::{disk, ground::Bochs, process::Process, started::Started, vm::Vm};

/// The file of a run in which the kernel's console is. It shows errors only, as it is slow.
pub const SERIAL_LOG: &str = "serial.log";

/// Instructions in a second of the machine's time. An exit from a guest takes some thousand, so that time is in
/// proportion to what exits cost, as it is on hardware.
const IPS: u32 = 1_000_000_000;

/// An Intel CPU without APICv, which is what clouds rent.
const CPU: &str = "corei7_haswell_4770";

/// What CPU models have and the machine does not: random numbers would make runs differ.
const EXCLUDED: &str = "rdrand,rdseed";

/// Kernel arguments.
///
/// - Some of the models say a wrong TSC frequency by CPUID, so it is told; it never has to be checked.
/// - The console shows errors only: all messages leave through the debug port.
/// - A restart is a triple fault, which ends Bochs.
/// - Checking the signatures of modules would take half of the boot. Without keys the kernel cannot.
/// - Idle CPUs halt: Bochs's MWAIT returns at once, and they would execute at full speed. Without MWAIT KVM refuses the CPU.
/// - Mitigations would flush caches that are not there, with instructions that count.
const ARGUMENTS: &str =
    "loglevel=4 tsc_early_khz=1000000 tsc=reliable reboot=triple idle=halt nokaslr mitigations=off \
    initcall_blacklist=load_system_certificate_list";

/// MiB of the machine's memory that Bochs keeps in its own, at the most.
const HOST_MEMORY_MAX: u32 = 2048;

/// Starts a machine.
///
/// # Errors
///
/// A disk could not be made, or Bochs could not be started.
pub fn start(vm: &Vm, bochs: &Bochs) -> Result<Started> {
    ensure!(
        !vm.command.is_empty(),
        "there is no terminal on Bochs: give a command"
    );
    if let Some(cpu) = &vm.cpu {
        check_model(bochs, cpu)?;
    }
    let configuration = vm.dir.join("bochsrc");
    fs::write(&configuration, configure(vm, bochs)?)?;
    for log in [vm.console_log(), vm.dir.join(SERIAL_LOG), vm.emulator_log()] {
        File::create(log)?;
    }
    let mut child = Command::new(bochs.entry.join("bochs"))
        .arg("-q")
        .arg("-f")
        .arg(&configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(vm.dir.join("bochs.stderr"))?)
        .spawn()
        .context("cannot start bochs")?;
    let stream = child.stdout.take().context("bochs has no output")?;
    let process = Process(child);
    let (output, sender) = UnixStream::pair()?;
    let receiver = Receiver {
        top: vm.top.clone(),
        status: vm.dir.join("status"),
        kernel: File::create(vm.console_log())?,
        bochs: File::create(vm.dir.join("bochs.stdout"))?,
        output: sender,
        tar: None,
        complete: false,
    };
    Ok(Started {
        process,
        output: Some(Box::new(output)),
        receiver: Some(thread::spawn(move || receiver.receive(stream))),
        servers: Box::new(()),
    })
}

/// Refuses a CPU model that Bochs does not have: its own message does not name the ones that it has.
fn check_model(bochs: &Bochs, cpu: &str) -> Result<()> {
    let help = Command::new(bochs.entry.join("bochs"))
        .args(["-help", "cpu"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start bochs")?;
    let text = [help.stdout, help.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    // The names stand one on a line, after a heading and before an empty line.
    let models: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("Supported CPU models"))
        .skip(2)
        .take_while(|line| !line.is_empty())
        .collect();
    ensure!(
        models.contains(&cpu),
        "Bochs has no CPU model {cpu}, but {}",
        models.join(", ")
    );
    Ok(())
}

/// Makes the disks, and returns Bochs's configuration.
fn configure(vm: &Vm, bochs: &Bochs) -> Result<String> {
    let boot = disk::boot(vm, &bochs.rootfs, &vm.kernel_arguments(ARGUMENTS))?;
    let tree = disk::tree(vm)?;
    let memory = megabytes(&vm.memory)?;
    let mut lines = vec![
        "config_interface: textconfig".to_owned(),
        "display_library: nogui".to_owned(),
        format!(
            "memory: guest={memory}, host={}",
            memory.min(HOST_MEMORY_MAX)
        ),
        format!(
            "romimage: file=\"{}\", options=fastboot",
            file(&bochs.rootfs, "usr/share/bochs/BIOS-bochs-latest")?
        ),
        format!(
            "vgaromimage: file=\"{}\"",
            file(&bochs.rootfs, "usr/share/vgabios/vgabios.bin")?
        ),
        format!(
            "cpu: model={}, count={}, ips={IPS}, quantum=32, reset_on_triple_fault=0, ignore_bad_msrs=1, \
                exclude_features=\"{EXCLUDED}\"",
            vm.cpu.as_deref().unwrap_or(CPU),
            vm.cpus
        ),
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14".to_owned(),
        "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15".to_owned(),
        format!("ata0-master: type=cdrom, path=\"{}\", status=inserted", boot.display()),
        format!("ata0-slave: type=disk, path=\"{}\", mode=flat", tree.display()),
    ];
    if let Some(toolchain) = &vm.toolchain {
        let disk = disk::link(vm, toolchain)?;
        lines.push(format!(
            "ata1-master: type=disk, path=\"{}\", mode=flat",
            disk.display()
        ));
    }
    lines.extend([
        "boot: cdrom".to_owned(),
        format!(
            "com1: enabled=1, mode=file, dev=\"{}\"",
            vm.dir.join(SERIAL_LOG).display()
        ),
        "port_e9_hack: enabled=1".to_owned(),
        format!("log: \"{}\"", vm.emulator_log().display()),
        "panic: action=fatal".to_owned(),
        "error: action=ignore".to_owned(),
        "info: action=ignore".to_owned(),
        "debug: action=ignore".to_owned(),
        // The same in each run, so that runs are equal.
        "clock: sync=none, time0=1795819188".to_owned(),
        "vga: extension=none, update_freq=5, realtime=0".to_owned(),
        "pci: enabled=1, chipset=i440fx".to_owned(),
    ]);
    Ok(lines.join("\n") + "\n")
}

/// The path of a file of the toolchain.
fn file(rootfs: &Path, name: &str) -> Result<String> {
    let path = rootfs.join(name);
    ensure!(path.exists(), "no {}", path.display());
    Ok(path.display().to_string())
}

/// Reads a size as QEMU takes it, in MiB.
fn megabytes(memory: &str) -> Result<u32> {
    let (number, unit) = memory.split_at(memory.trim_end_matches(char::is_alphabetic).len());
    let number: u32 = number
        .parse()
        .with_context(|| format!("--memory {memory} is no size"))?;
    match unit {
        "G" | "g" => Ok(number * 1024),
        "M" | "m" | "" => Ok(number),
        _ => bail!("--memory {memory} is neither in G nor in M"),
    }
}

/// Takes in what a machine sends.
struct Receiver {
    top: PathBuf,
    /// The file for the exit status.
    status: PathBuf,
    /// The kernel's messages.
    kernel: File,
    /// What Bochs itself prints.
    bochs: File,
    /// To the reader of the command's output.
    output: UnixStream,
    /// What unpacks files into the source tree, from the first on.
    tar: Option<Child>,
    /// Whether the exit status has come, which is last.
    complete: bool,
}

impl Receiver {
    /// Takes in all of a stream.
    fn receive(mut self, mut stream: ChildStdout) -> Result<()> {
        let mut parser = Parser::default();
        let mut buffer = vec![0; 1 << 16];
        let mut failure = Ok(());

        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            let between = parser.feed(&buffer[..length], |kind, payload| {
                if failure.is_ok() {
                    failure = self.take(kind, payload);
                }
            });
            self.bochs.write_all(&between)?;
        }
        if let Some(mut tar) = self.tar {
            drop(tar.stdin.take());
            let status = tar.wait()?;
            // An archive that was cut off is the machine's end's fault, which is reported.
            ensure!(status.success() || !self.complete, "tar failed: {status}");
        }
        failure
    }

    fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        match kind {
            Kind::Kernel => self.kernel.write_all(payload)?,
            // The reader may be gone; the run goes on, because its files still matter.
            Kind::Output => drop(self.output.write_all(payload)),
            Kind::Files => {
                if self.tar.is_none() {
                    self.tar = Some(unpack(&self.top)?);
                }
                let tar = self.tar.as_mut().and_then(|tar| tar.stdin.as_mut());
                tar.context("tar has no input")?.write_all(payload)?;
            }
            Kind::Status => {
                self.complete = true;
                fs::write(&self.status, payload)?;
            }
        }
        Ok(())
    }
}

/// Starts what unpacks the machine's files into the source tree.
fn unpack(top: &Path) -> Result<Child> {
    Command::new("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(top)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run tar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_qemus() {
        assert_eq!(megabytes("2G").unwrap(), 2048);
        assert_eq!(megabytes("640M").unwrap(), 640);
        assert_eq!(megabytes("512").unwrap(), 512);
        assert!(megabytes("1T").is_err());
        assert!(megabytes("much").is_err());
    }
}
