// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The decisions of a pvirq host: for how long idle vCPUs poll, what that may cost, and which interrupts wait for others.
//!
//! All of it is arithmetic on what the host has measured. Nothing here allocates, blocks, or reads a clock.

// Kbuild gives all kernel code `no_std` itself, and refuses to be given it twice.
#![cfg_attr(not(MODULE), no_std)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod budget;
pub mod moderation;
pub mod poll_window;
