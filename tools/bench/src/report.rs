// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All results of a run.

use serde::Serialize;
use serde_json::Value;
use vmm::error::Error;

use crate::{bench::AnyBench, environment::Environment, lab::Lab, results::SCHEMA};

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
    pub fn new(lab: &Lab, benches: &[Box<dyn AnyBench>]) -> Result<Self, Error> {
        let mut vcpus: Vec<_> = benches.iter().flat_map(|bench| bench.vcpus()).collect();
        vcpus.sort_unstable();
        vcpus.dedup();
        let devices = benches.first().map(|bench| bench.devices());
        Ok(Report {
            schema: SCHEMA,
            environment: Environment::new(lab, vcpus, devices.unwrap_or_default())?,
            rows: Vec::new(),
        })
    }
}
