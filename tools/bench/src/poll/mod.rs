// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What polling for an idle vCPU costs, and what it saves, at each rate of wake-ups.
//!
//! vCPU 0 interrupts vCPU 1, which is idle, at given intervals. All [modes](Mode) are measured in turn at one [`Point`]
//! after the other, each in a machine of its own, on KVM's device or on pvirq's, as it needs. What a mode saves is judged
//! by the exits of [`Mode::Halt`] at the same point.

mod distribution;
mod mode;
mod run;
mod wakeups;

pub use self::{
    distribution::Distribution,
    mode::{Mode, REFERENCE_NS},
    run::{Options, Point, Polling},
};
