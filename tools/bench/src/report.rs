// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All results of a run.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use vmm::error::Error;

use crate::{bench::AnyBench, environment::Environment, results::SCHEMA, session::Session};

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// The results.
    pub rows: Vec<Value>,
}

impl Report {
    /// Begins the report of some benchmarks.
    pub fn new(session: &Session, benches: &[Box<dyn AnyBench>]) -> Result<Self, Error> {
        let (mut vcpus, mut devices) = (Vec::new(), Vec::new());
        for (more, on) in benches.iter().map(|bench| bench.machines()) {
            vcpus.extend(more);
            devices.extend(on);
        }
        vcpus.sort_unstable();
        vcpus.dedup();
        let mut seen = BTreeSet::new();
        devices.retain(|device| seen.insert(device.clone()));
        Ok(Report {
            schema: SCHEMA,
            environment: Environment::new(session, vcpus, devices)?,
            rows: Vec::new(),
        })
    }
}
