// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Posted interrupts in shared memory.
//!
//! A vCPU's [`Descriptor`] holds one pending bit per vector. Whoever wants to interrupt that vCPU
//! [posts](Descriptor::post): if the vCPU will look by itself, it sets the bit, and has nothing more to do.
//! Otherwise it sends the interrupt the platform's own way, so that
//! posting can save VM exits and never adds one. See `Documentation/protocol.rst` for the proof.
//!
//! Host, guests and tools share this crate, and so does the kernel: nothing in it allocates,
//! blocks, or panics on what it finds in memory.
//!
//! # Trust
//!
//! A descriptor is guest memory. The host writes copies of what it knows there and never reads
//! them back; what it has to read, it reads once. Every bit pattern is a valid descriptor.

// Kbuild gives all kernel code `no_std` itself, and refuses to be given it twice.
#![cfg_attr(not(MODULE), no_std)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

#[macro_use]
mod numbered;

mod atomic;
mod descriptor;
#[cfg(all(test, not(loom)))]
mod header;
mod idle;
pub mod ioctl;
#[cfg(all(test, loom))]
mod model;
pub mod moderation;
mod owner;
pub mod port;
mod post;
mod state;
mod statistics;
mod vector;
pub mod window;

pub use crate::{
    descriptor::Descriptor,
    idle::{
        IdleEnd,
        POLL_MAX_NS, //
    },
    post::{
        post_all,
        Looker,
        Posted,
        Tally, //
    },
    state::{
        GuestState,
        HostState, //
    },
    statistics::{
        GuestCounters,
        HostStatistics, //
    },
    vector::{
        ReservedVector,
        Vector,
        Vectors, //
    }, //
};
