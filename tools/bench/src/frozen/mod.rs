// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether a sender that stops for ever in a post delays another one's interrupt.
//!
//! vCPU 0 interrupts vCPU 1 and measures how long that takes. Meanwhile another sender of the same vector to the same vCPU
//! stops in its post: a device's process that is killed, or a vCPU that is kept out of `KVM_RUN`. The same is measured
//! with native interrupts, in turn.

mod case;
mod process;
mod run;
mod vcpu;

pub use self::{case::FrozenCase, run::Frozen};
