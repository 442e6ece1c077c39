// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Software posted interrupts for KVM, for user space.
//!
//! What is here is a small VMM: it makes a [`machine::Machine`] on a [`device::Device`], `/dev/kvm` or `/dev/pvirq`,
//! boots an [`image::Image`] in it, and counts what its vCPUs leave the guest for. The `pvirq` command is built of it,
//! [`mod@bench`] measures with it, and [`doctor`] looks at the host.
#![warn(missing_docs)]

pub mod bench;
pub mod boot;
pub mod cpus;
pub mod device;
pub mod doctor;
pub mod error;
pub mod exits;
pub mod extension;
pub mod features;
pub mod ground;
pub mod image;
pub mod kick;
pub mod kvm_module;
pub mod machine;
pub mod mapped;
pub mod plot;
pub mod ports;
pub mod ring;
pub mod snapshot;
pub mod spin;
pub mod state;
pub mod stats;
pub mod trace;
pub mod usage;
pub mod vcpu;
