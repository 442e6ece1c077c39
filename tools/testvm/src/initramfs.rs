// SPDX-License-Identifier: GPL-2.0

//! The machine's initramfs: init, busybox, KVM's modules, and what keeps the kernel from patching itself.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::{symlink, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{ensure, Context, Result};

use crate::ground::Ground;

const INIT: &str = include_str!("../init");

/// Modules in the order in which they load, relative to the kernel's module directory. Init skips the vendor's that
/// the CPU is not.
const MODULES: &[&str] = &[
    "virt/lib/irqbypass.ko.xz",
    "arch/x86/kvm/kvm.ko.xz",
    "arch/x86/kvm/kvm-amd.ko.xz",
    "arch/x86/kvm/kvm-intel.ko.xz",
];

/// What a machine on Bochs needs for its disks, in the order in which it loads. Init names the same ones.
const DISK_MODULES: &[&str] = &[
    "drivers/scsi/scsi_common.ko.xz",
    "drivers/scsi/scsi_mod.ko.xz",
    "drivers/ata/libata.ko.xz",
    "drivers/ata/ata_piix.ko.xz",
    "drivers/scsi/sd_mod.ko.xz",
    "drivers/cdrom/cdrom.ko.xz",
    "fs/isofs/isofs.ko.xz",
    "fs/overlayfs/overlay.ko.xz",
];

/// Builds the initramfs in `dir` and returns its path.
///
/// # Errors
///
/// The kernel's cache entry or the toolchain lacks a file, or `dir` cannot be written.
pub fn build(kernel: &Path, rootfs: &Path, ground: &Ground, dir: &Path) -> Result<PathBuf> {
    let on_bochs = matches!(ground, Ground::Bochs(_));
    let tree = dir.join("initramfs");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    for path in [
        "dev", "etc", "modules", "proc", "pvirq", "rootfs", "run", "sys", "tmp", "usr/bin", "var",
    ] {
        fs::create_dir_all(tree.join(path))?;
    }
    // The toolchain's layout, so that its /usr can be mounted over this one.
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        symlink(target, tree.join(link))?;
    }
    let busybox = rootfs.join("usr/bin/busybox");
    fs::copy(&busybox, tree.join("busybox"))
        .with_context(|| format!("no {}", busybox.display()))?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    // Built with this program, into the same directory.
    let helper = if on_bochs { "port" } else { "steady" };
    let path = env::current_exe()?.with_file_name(helper);
    fs::copy(&path, tree.join(helper)).with_context(|| format!("no {}", path.display()))?;
    let disk_modules = if on_bochs { DISK_MODULES } else { &[] };
    for module in MODULES.iter().chain(disk_modules) {
        let from = kernel.join("modules").join(module);
        let name = Path::new(module)
            .file_stem()
            .context("a module has a name")?;
        unxz(&from, &tree.join("modules").join(name))?;
    }
    let image = dir.join("initramfs.cpio");
    pack(&tree, &image)?;
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

fn unxz(from: &Path, to: &Path) -> Result<()> {
    let out = fs::File::create(to)?;
    let status = Command::new("xz")
        .arg("-dc")
        .arg(from)
        .stdout(out)
        .status()
        .context("cannot run xz")?;
    ensure!(status.success(), "cannot unpack {}", from.display());
    Ok(())
}

/// Packs a tree with cpio, owned by root, whichever user builds it.
fn pack(tree: &Path, image: &Path) -> Result<()> {
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(image)?)
        .spawn()
        .context("cannot run cpio")?;
    let mut names = cpio.stdin.take().context("cpio has no standard input")?;
    list(tree, Path::new(""), &mut names)?;
    drop(names);
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(())
}

/// Writes the paths of a tree, each directory before what is in it.
fn list(tree: &Path, below: &Path, names: &mut impl Write) -> Result<()> {
    let mut entries = fs::read_dir(tree.join(below))?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let path = below.join(entry.file_name());
        writeln!(names, "{}", path.display())?;
        if entry.file_type()?.is_dir() {
            list(tree, &path, names)?;
        }
    }
    Ok(())
}
