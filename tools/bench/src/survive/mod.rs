// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether interrupts survive that the VM is saved and restored, at random points, by KVM's API alone.
//!
//! Every vCPU of the mini guest interrupts all others, and a thread of the VMM signals two eventfds for each vCPU. The
//! VMM gets the vCPUs out of `KVM_RUN`, saves them and the memory, and goes on in a new VM, on the same device or on
//! another. The guest's ledger ([`mini_guest::Survival`]) and the VMM's own tell exactly what is lost and what is repeated.

mod audit;
mod case;
mod events;
mod round;
mod run;

pub use self::{
    case::{survive_plan, Device as SurviveDevice, SurviveCase},
    run::Survive,
};
