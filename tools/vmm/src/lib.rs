// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A small VMM: it makes a [`machine::Machine`] on a [`pvirq::device::Device`], `/dev/kvm` or `/dev/pvirq`, boots an
//! [`image::Image`] in it, and counts why its vCPUs leave the guest.
#![warn(missing_docs)]

pub mod boot;
pub mod cpus;
pub mod error;
pub mod image;
pub mod kick;
pub mod machine;
pub mod msi;
pub mod ports;
pub mod snapshot;
pub mod spin;
pub mod state;
pub mod vcpu;
