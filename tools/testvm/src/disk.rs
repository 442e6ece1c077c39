// SPDX-License-Identifier: GPL-2.0

//! Disks for machines on Bochs: ISO 9660 images, which xorriso makes.
//!
//! The machine reads what it uses only, and so a large image costs the machine nothing.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{ensure, Context, Result};

use crate::vm::Vm;

/// What of `build` a machine gets: what is made to run in it.
const BUILT: &[&str] = &[
    "conformance/programs",
    "module",
    "module-debug",
    "qemu-guest",
    "selftests/install",
    "target/x86_64-unknown-linux-gnu/release/pvirq",
    "target/x86_64-unknown-linux-gnu/release/pvirq-test",
];

/// Bochs's disks are cylinders of 16 heads and 63 sectors.
const CYLINDER: u64 = 512 * 16 * 63;

/// Makes the disk that the machine boots from, and returns its path.
///
/// # Errors
///
/// The toolchain lacks a file, or xorriso failed.
pub fn boot(vm: &Vm, rootfs: &Path, arguments: &str) -> Result<PathBuf> {
    let configuration = vm.dir.join("isolinux.cfg");
    fs::write(
        &configuration,
        format!(
            "DEFAULT linux\nPROMPT 0\nTIMEOUT 1\nLABEL linux\n KERNEL /vmlinuz\n APPEND initrd=/initrd {arguments}\n"
        ),
    )?;
    let image = vm.dir.join("boot.iso");
    image_of(
        &image,
        &[
            (
                "isolinux/isolinux.bin",
                rootfs.join("usr/lib/ISOLINUX/isolinux.bin"),
            ),
            (
                "isolinux/ldlinux.c32",
                rootfs.join("usr/lib/syslinux/modules/bios/ldlinux.c32"),
            ),
            ("isolinux/isolinux.cfg", configuration),
            ("vmlinuz", vm.kernel.clone()),
            ("initrd", vm.initramfs.clone()),
        ],
        &[
            "-b",
            "isolinux/isolinux.bin",
            "-c",
            "isolinux/boot.cat",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
        ],
    )?;
    Ok(image)
}

/// Makes the disk with the source tree and with what was built in it, and returns its path.
///
/// # Errors
///
/// The tree cannot be read, or xorriso failed.
pub fn tree(vm: &Vm) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&vm.top)? {
        let name = entry?
            .file_name()
            .into_string()
            .ok()
            .context("a file's name is no text")?;
        if name != ".git" && name != "build" {
            files.push((name.clone(), vm.top.join(name)));
        }
    }
    let run = vm.dir.strip_prefix(vm.top.join("build"))?.join("command");
    for name in BUILT.iter().map(Path::new).chain([run.as_path()]) {
        let path = vm.top.join("build").join(name);
        if path.exists() {
            files.push((format!("build/{}", name.display()), path));
        }
    }
    let image = vm.dir.join("tree.iso");
    image_of(&image, &files, &[])?;
    Ok(image)
}

/// Makes the disk `shared`, which other machines use as well, a run's own, and returns its path.
///
/// Bochs locks a disk by a file beside it, and the machine only reads this one.
///
/// # Errors
///
/// The link could not be made.
pub fn link(vm: &Vm, shared: &Path) -> Result<PathBuf> {
    let disk = vm.dir.join("toolchain.iso");
    remove(&disk)?;
    symlink(shared, &disk)?;
    Ok(disk)
}

/// Removes an image that an earlier run has left, and its lock, which an interrupted run leaves behind.
fn remove(image: &Path) -> Result<()> {
    for old in [image, &image.with_extension("iso.lock")] {
        if old.symlink_metadata().is_ok() {
            fs::remove_file(old)?;
        }
    }
    Ok(())
}

/// Makes an image of files, each with its path there.
fn image_of(image: &Path, files: &[(impl AsRef<str>, PathBuf)], options: &[&str]) -> Result<()> {
    remove(image)?;
    let escape = |path: &str| path.replace('\\', "\\\\").replace('=', "\\=");
    let output = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-R", "-graft-points", "-o"])
        .arg(image)
        .args(options)
        .args(files.iter().map(|(name, path)| {
            format!(
                "{}={}",
                escape(name.as_ref()),
                escape(&path.display().to_string())
            )
        }))
        .stdin(Stdio::null())
        .output()
        .context("cannot run xorriso")?;
    ensure!(
        output.status.success(),
        "xorriso failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = File::options().write(true).open(image)?;
    file.set_len(file.metadata()?.len().next_multiple_of(CYLINDER))?;
    Ok(())
}
