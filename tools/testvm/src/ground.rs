// SPDX-License-Identifier: GPL-2.0

//! What a machine runs on.

use std::{fmt, path::PathBuf};

use clap::ValueEnum;

use crate::accel::Accel;

/// The grounds that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// QEMU, on hardware that can nest or on TCG, which has SVM
    Qemu,
    /// The Bochs emulator, which has VMX and SVM, and CPUs that really overlap
    Bochs,
}

/// What a machine runs on.
#[derive(Clone, Debug)]
pub enum Ground {
    /// QEMU with this accelerator.
    Qemu(Accel),
    /// Bochs.
    Bochs(Bochs),
}

/// Where Bochs is.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// Its cache entry, as tools/env/emulator makes it.
    pub entry: PathBuf,
    /// The toolchain root file system, which has its firmware and the boot loader.
    pub rootfs: PathBuf,
}

impl Ground {
    /// The name by which results know the ground.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qemu(Accel::Kvm) => "kvm-nested",
            Self::Qemu(_) => "qemu-tcg",
            Self::Bochs(_) => "bochs",
        }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu(accel) => accel.fmt(f),
            Self::Bochs(_) => f.write_str("Bochs"),
        }
    }
}
