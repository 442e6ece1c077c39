// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Links the guest as a static program at a fixed address, without the C library's start files.

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest.ld");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--fatal-warnings",
        &format!("-Wl,-T,{script}"),
    ] {
        println!("cargo:rustc-link-arg-bin=mini-guest={argument}");
    }
}
