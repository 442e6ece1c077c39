// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Benchmarks: what an interrupt between vCPUs costs, and what a VM exit does, on several devices in one run.
//!
//! Devices and mechanisms are measured in turn, a short piece each, in an order that reverses every time, so that
//! whatever else the host does falls on all of them alike. The mechanism `pvirq` has guests of its own, which have
//! registered their descriptors, on the devices where they can; for the other mechanisms, no guest has. Every interrupt is acknowledged by its sequence number; those that are not
//! count as lost. Exits are counted twice, by KVM's statistics and by its tracepoint, each vCPU by its own thread
//! between the moment it enters the guest and the moment it comes back with the job done. The two must agree.

mod case;
mod clock;
mod environment;
mod frozen;
pub mod ground;
mod idle;
mod inject;
mod measurement;
mod options;
pub mod plot;
pub mod poll;
mod random;
mod report;
pub mod results;
mod session;
mod summary;
mod survive;
mod table;

pub use self::{
    case::{exit_plan, ipi_plan, Case, CaseGroup, Extent, HaltPoll, Place, Target},
    environment::{kernel_release, Environment},
    frozen::{Culprit, Frozen, FrozenCase, FrozenReport, FrozenRow},
    idle::{
        Idle,
        IdleCase,
        IdleReport,
        IdleRow,
        IDLE_CASES, //
    },
    inject::{inject_plan, InjectCase, InjectReport, InjectRow, InjectSession, Injection, Signals},
    measurement::{Measurement, Piece},
    options::Options,
    report::{Relative, Report, Row, Sides},
    session::{Baseline, Measured, Progress, Session},
    summary::Summary,
    survive::{survive_plan, Survive, SurviveCase, SurviveDevice, SurviveReport, SurviveRow},
    table::table,
};
