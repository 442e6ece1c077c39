// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts the VM exits of a vCPU's thread, and the CPU time that it uses.
//!
//! Exits are counted twice: by KVM's statistics ([`stats`]) and by its tracepoint ([`trace`]). The two must agree.
#![warn(missing_docs)]

mod arithmetic;
pub mod error;
pub mod exits;
pub mod kvm_module;
mod named;
mod ring;
pub mod stats;
pub mod trace;
pub mod usage;
