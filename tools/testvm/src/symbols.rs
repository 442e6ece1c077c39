// SPDX-License-Identifier: GPL-2.0

//! Names the source lines in a kernel's report.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Gives each frame of a report its file and line, where the kernel was built here and there is debug information.
///
/// The kernel's own `decode_stacktrace.sh` does the work. `modules` is searched for the modules that the kernel's tree
/// lacks. What cannot be decoded comes back as it was.
pub fn symbolise(report: &str, kernel: &Path, modules: &Path) -> String {
    let tree = kernel.join("linux");
    let vmlinux = tree.join("vmlinux");
    if !vmlinux.exists() {
        return report.to_owned();
    }
    decode(report, &tree, &vmlinux, modules).unwrap_or_else(|| report.to_owned())
}

fn decode(report: &str, tree: &Path, vmlinux: &Path, modules: &Path) -> Option<String> {
    let mut child = Command::new("bash")
        .arg(tree.join("scripts/decode_stacktrace.sh"))
        .arg(vmlinux)
        .arg(tree)
        .arg(modules)
        .env("LLVM", "-19")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let text = report.to_owned();
    // The script answers line by line, so that one thread alone could block on a full pipe.
    let writer = thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    (output.status.success() && !output.stdout.is_empty())
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
