// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The policies of a pvirq host: how long idle vCPUs poll, what that may cost, and which interrupts wait for others.
//!
//! All of it is arithmetic on the host's measurements, in ns. Nothing here allocates, blocks, or reads a clock.

// Kbuild makes all kernel code `no_std` itself, and allows that only once.
#![cfg_attr(not(MODULE), no_std)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod budget;
pub mod moderation;
pub mod poll_window;
