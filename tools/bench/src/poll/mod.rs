// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What polling for an idle vCPU costs, and what it saves, at each rate of wake-ups.
//!
//! vCPU 0 interrupts vCPU 1, which is idle, at given intervals. All [modes](Mode) are measured at one [`Point`] after the
//! other, each in a machine of its own, on KVM's device or on pvirq's, as it needs. What a mode saves is judged by the exits
//! of [`Mode::Halt`] at the same point.

mod arrivals;
mod mode;
mod point;
mod report;
mod session;
mod table;

pub use self::{
    arrivals::Arrivals,
    mode::{Mode, REFERENCE_NS},
    point::{Measured, Point, Wakeups},
    report::{Beaten, Periods, Report, Row, Shares},
    session::{Options, PollOptions, Session},
    table::table,
};
