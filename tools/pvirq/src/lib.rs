// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Software posted interrupts for KVM, for the authors of VMMs that are built on kvm-ioctls.
//!
//! [`device`] opens `/dev/pvirq`, which speaks KVM's API. [`extension`] has the ioctls of its own: an eventfd is bound to
//! a vector of a vCPU, and a registration can be queried, forbidden and saved. [`mapped`] posts without a system call.
#![warn(missing_docs)]

pub mod device;
pub mod error;
pub mod extension;
pub mod features;
pub mod mapped;
