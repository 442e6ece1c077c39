// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the mini guest and its VMM share: the boot protocol, the I/O ports, and a page of shared memory.
//!
//! # Boot protocol
//!
//! Every vCPU starts at the image's entry point in 64-bit mode, with flat segments, interrupts off, SSE on, and the
//! machine's memory mapped one to one. `rdi` holds the address of [`Shared`] and `rsi` the vCPU's index, which is also
//! its APIC ID. There is no stack, no IDT and no usable GDT yet.
//!
//! # Ports
//!
//! See [`port`]. Reads of all other ports give ones, and writes go nowhere, but for those of pvirq's guest interface, if
//! there is a host that answers them.
#![cfg_attr(not(test), no_std)]

mod arrivals;
mod host;
#[macro_use]
mod job;
mod frozen;
mod layout;
mod ledger;
mod random;
mod shared;
mod storm;

pub use crate::{
    arrivals::{Arrival, Arrivals, Source, STEPS},
    frozen::{Frozen, StopAt},
    host::{Answer, Request},
    job::{IdleMode, Job, JobKind, Mechanism, Pattern},
    layout::{
        port, ARRIVAL_VECTORS, DEVICE_VECTORS, IPI_VECTOR, MAX_VCPUS, STATUS_MASKED, STORM_VECTOR,
        STORM_VECTORS,
    },
    ledger::{
        ledger_source, Account, Ledger, Number, Survival, LEDGER_EVENTS, LEDGER_SOURCES,
        LEDGER_VCPUS, LEDGER_VECTORS,
    },
    random::Random,
    shared::{IdleCounts, Mode, Shared, Slot, CYCLES_LEN},
    storm::{storm_senders, storm_vector, Storm, Totals},
};
