// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Posted interrupts in shared memory.
//!
//! A vCPU's [`Descriptor`] holds one pending bit per vector. A sender [posts](Descriptor::post) to interrupt the vCPU: if
//! the vCPU will poll, setting the bit is all. Otherwise the sender kicks it, by the platform's own interrupt. So posting
//! can save VM exits and never adds one. See `Documentation/protocol.rst` for the proof.
//!
//! Host, guests and tools share this crate, and the kernel compiles it, too: nothing in it allocates, blocks, or panics on
//! what it finds in memory.
//!
//! # Trust
//!
//! A descriptor is guest memory. The host writes copies of its own state there and never reads them back; what it must
//! read, it reads once. Every bit pattern is a valid descriptor.

// Kbuild makes all kernel code `no_std` itself, and allows that only once.
#![cfg_attr(not(MODULE), no_std)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

#[macro_use]
mod numbered;

mod abi;
#[cfg(MODULE)]
mod arch;
mod atomic;
mod counters;
#[cfg(all(test, not(loom)))]
mod header;
mod idle;
#[cfg(all(test, loom))]
mod model;
mod owner;
mod post;

pub use abi::{
    descriptor::Descriptor,
    ioctl,
    irq::{
        ReservedVector,
        Vector,
        Vectors, //
    },
    registers,
    state::{
        GuestState,
        HostState,
        IdleEnd,
        POLL_MAX_NS, //
    }, //
};
pub use counters::{
    GuestCounters,
    HostStatistics, //
};
pub use post::{
    post_all,
    Pickup,
    Posted,
    Tally, //
};
