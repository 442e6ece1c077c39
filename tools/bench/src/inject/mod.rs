// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an interrupt from a device costs: one that a thread of the VMM signals by an eventfd.
//!
//! A sender waits until the target rests, signals one eventfd or a burst of them, and waits until the target has
//! acknowledged the last signal by its sequence number. Each mechanism has a machine of its own. An event is one signal.

mod case;
mod ready;
mod run;
mod signal;
mod submission;

pub use self::{
    case::{inject_plan, InjectCase, Injection, Signals},
    run::Inject,
};
