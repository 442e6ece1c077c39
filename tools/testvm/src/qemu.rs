// SPDX-License-Identifier: GPL-2.0

//! Machines on QEMU: its command line, and its file servers.

use std::{
    env, fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{accel::Accel, process::Process, started::Started, vm::Vm};

/// TCG's CPU. While the kernel identifies the boot CPU it forgets for a moment that there are five levels of page tables,
/// and KASAN then takes the memory of an interrupt handler for a wild pointer's. Four levels are cheaper to walk, too.
const TCG_CPU: &str = "max,-la57";

/// Starts a machine.
///
/// # Errors
///
/// QEMU or virtiofsd could not be started.
pub fn start(vm: &Vm, accel: Accel) -> Result<Started> {
    let mut servers = vec![FileServer::start(&vm.dir, "pvirq", &vm.top, false)?];
    if let Some(toolchain) = &vm.toolchain {
        servers.push(FileServer::start(&vm.dir, "rootfs", toolchain, true)?);
    }
    let mut qemu = command(vm, accel, &servers)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let output = qemu.stdout.take();
    Ok(Started {
        process: Process(qemu),
        output: output.map(|output| Box::new(output) as _),
        receiver: None,
        servers: Box::new(servers),
    })
}

fn command(vm: &Vm, accel: Accel, servers: &[FileServer]) -> Command {
    let interactive = vm.command.is_empty();
    let mut qemu = Command::new("qemu-system-x86_64");
    let arguments = if accel == Accel::Tcg {
        // Its TSC is the host's own. The kernel would check that by an emulated clock that runs late on a busy machine,
        // call it unstable, and then KVM's guests have clocks that differ. And it would check within 10 ticks that the timer
        // interrupts, and panic: a busy machine may run QEMU later.
        "testvm.steady tsc=reliable no_timer_check"
    } else {
        ""
    };

    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
    ]);
    qemu.args(match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", vm.cpu.as_deref().unwrap_or("host")],
        Accel::Auto | Accel::Tcg => [
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            vm.cpu.as_deref().unwrap_or(TCG_CPU),
        ],
    });
    qemu.arg("-smp").arg(vm.cpus.to_string());
    // vhost-user file servers map the machine's memory.
    qemu.arg("-m").arg(&vm.memory);
    qemu.arg("-object").arg(format!(
        "memory-backend-memfd,id=ram,size={},share=on",
        vm.memory
    ));
    qemu.args(["-machine", "memory-backend=ram"]);
    qemu.arg("-kernel")
        .arg(&vm.kernel)
        .arg("-initrd")
        .arg(&vm.initramfs);
    qemu.arg("-append").arg(vm.kernel_arguments(arguments));
    qemu.arg("-serial")
        .arg(format!("file:{}", vm.console_log().display()));
    qemu.args([
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtconsole,chardev=terminal",
    ]);
    qemu.args(["-device", "virtio-rng-pci"]);
    qemu.args(["-d", "cpu_reset", "-D"]).arg(vm.emulator_log());
    for server in servers {
        server.attach(&mut qemu);
    }
    if interactive {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off"]);
    } else {
        qemu.args(["-chardev", "stdio,id=terminal,signal=on"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    qemu
}

/// A virtiofsd that serves one directory to the machine.
pub struct FileServer {
    tag: &'static str,
    socket: PathBuf,
    _process: Process,
}

impl FileServer {
    fn start(dir: &Path, tag: &'static str, shared: &Path, readonly: bool) -> Result<Self> {
        // Socket addresses are short, and the run's directory may be deep.
        let socket = env::temp_dir().join(format!("{tag}.{}.sock", std::process::id()));
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
