// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What was measured of interrupts from devices.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{environment::Environment, summary::Summary};

/// What was measured of a case by a mechanism.
#[derive(Clone, Debug, Serialize)]
pub struct InjectRow {
    /// The benchmark.
    pub bench: &'static str,
    /// What is signalled.
    pub case: String,
    /// What the target does meanwhile.
    pub target: &'static str,
    /// How the signal gets there.
    pub mechanism: &'static str,
    /// The device.
    pub device: PathBuf,
    /// The number of vCPUs.
    pub vcpus: usize,
    /// vCPUs on the CPU that has the most of them.
    pub overcommit: usize,
    /// Signals.
    pub events: u64,
    /// Signals that were acknowledged.
    pub delivered: u64,
    /// Signals that were not.
    pub lost: u64,
    /// How often the target's interrupt handler ran, or it found the vector in its descriptor.
    pub handled: u64,
    /// System calls of the sender per event.
    pub system_calls_per_event: f64,
    /// Deliveries of bottom halves per event.
    pub kicks_per_event: f64,
    /// The target's exits per event, without those by the host's timer.
    pub exits_per_event: f64,
    /// The target's exits per event, by reason.
    pub exits_by_reason: BTreeMap<&'static str, f64>,
    /// Exits per event that the host's timer caused; part of those by `intr`.
    pub timer_exits_per_event: f64,
    /// Cycles from before the first signal to the sender's sight of the last one's acknowledgement.
    pub cycles_per_burst: Option<Summary>,
    /// Their median, where cycles are [instructions](crate::ground::Ground::counts_instructions).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_burst: Option<u64>,
    /// The median of cycles, relative to that by irqfd.
    pub cycles_ratio: Option<f64>,
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct InjectReport {
    pub(super) schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// One for each case and mechanism.
    pub rows: Vec<InjectRow>,
}
