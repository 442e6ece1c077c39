// SPDX-License-Identifier: GPL-2.0

//! What KVM tells of vCPUs of one architecture only. This is the only file with `cfg(target_arch)`.

#[cfg(target_arch = "x86_64")]
mod x86;
