// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Builds the mini guest, which the program carries inside.
//!
//! A build of its own, in a directory of its own, because the guest must not see the flags that the program is built
//! with, such as those for a static C library.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let variable =
        |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo did not set {name}"));
    let guest = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../mini-guest");
    let triple = variable("TARGET");
    let target = PathBuf::from(variable("OUT_DIR")).join("guest");

    let status = Command::new(variable("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--frozen",
            "--bin",
            "mini-guest",
        ])
        .arg("--manifest-path")
        .arg(guest.join("Cargo.toml"))
        .arg("--target")
        .arg(&triple)
        .arg("--target-dir")
        .arg(&target)
        // Being set, though empty, it overrides whatever flags there are elsewhere.
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo is there: it runs this script");
    assert!(status.success(), "the mini guest did not build");

    let protocol = guest.join("../../rust/protocol");
    let policy = guest.join("../../rust/policy");
    for source in [&guest, &protocol, &policy] {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    println!(
        "cargo:rustc-env=MINI_GUEST={}",
        target.join(&triple).join("release/mini-guest").display()
    );
}
