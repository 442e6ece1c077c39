// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an interrupt between vCPUs costs, and what a VM exit does, on several devices in one run.
//!
//! The mechanism `pvirq` has guests of its own, which have registered their descriptors, on the devices where they can;
//! for the other mechanisms, no guest has. Every interrupt is acknowledged by its sequence number; those that are not
//! count as lost. Exits are counted twice, by KVM's statistics and by its tracepoint, each vCPU by its own thread between
//! the moment it enters the guest and the moment it comes back with the job done. The two must agree.

mod case;
mod measurement;
mod run;
mod size;

pub use self::{
    case::{exit_plan, ipi_plan, Case, Extent},
    measurement::Measurement,
    run::{Bound, Ipi, Options},
};
