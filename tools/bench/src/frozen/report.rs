// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How long interrupts took while another sender was stopped.

use std::{fmt, path::PathBuf};

use mini_guest::Mechanism;
use pvirq::device::PVIRQ;
use serde::Serialize;
use vmm::{cpus::CpuList, error::Error};

use super::{Culprit, FrozenCase};
use crate::{
    environment::Environment,
    results::SCHEMA,
    summary::{median, Summary},
};

/// What was measured in a cell.
#[derive(Default)]
pub(super) struct Measured {
    pub stops: u64,
    pub left: u64,
    pub lost: u64,
    pub cpu_faults: u32,
    events: u64,
    cycles: Vec<u64>,
    medians: Vec<u64>,
}

impl Measured {
    /// Adds a piece.
    pub fn add(&mut self, events: u64, cycles: impl Iterator<Item = u64>) {
        let mut piece: Vec<_> = cycles.collect();
        self.events += events;
        self.medians
            .extend(Summary::of(&mut piece).map(|summary| summary.p50));
        self.cycles.extend(piece);
    }
}

/// How long interrupts took, by a mechanism, while another sender was stopped.
#[derive(Clone, Debug, Serialize)]
pub struct FrozenRow {
    bench: &'static str,
    /// Who is stopped: a process or a vCPU.
    pub case: &'static str,
    /// How the interrupts are sent that are measured.
    pub mechanism: &'static str,
    /// Where the other sender is stopped.
    pub stopped: &'static str,
    device: PathBuf,
    vcpus: usize,
    /// How often it was stopped.
    pub stops: u64,
    /// How often it has left a bit pending, where that is known.
    pub left_pending: u64,
    /// Interrupts.
    pub events: u64,
    /// Interrupts that did not arrive.
    pub lost: u64,
    /// From before the send until the sender sees the acknowledgement.
    pub cycles_per_event: Option<Summary>,
    /// The longest of these.
    pub longest: u64,
    /// Compared with the first row of the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<FrozenRatios>,
    cpu_faults: u32,
}

/// How a row compares with native interrupts while a sender is stopped.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FrozenRatios {
    /// So many pairs of pieces, and the median of their medians' ratios.
    pub pairs: usize,
    /// See above.
    pub median_of_pairs: f64,
    /// The ratio of the 99th percentiles.
    pub p99: f64,
    /// The ratio of the longest.
    pub longest: f64,
}

/// Makes rows of what was measured in the cells of a case.
pub(super) fn rows(
    case: FrozenCase,
    cells: &[(Mechanism, Culprit)],
    measured: &mut [Measured],
) -> Vec<FrozenRow> {
    let mut rows = Vec::new();
    for ((mechanism, culprit), measured) in cells.iter().zip(measured.iter_mut()) {
        rows.push(FrozenRow {
            bench: "frozen",
            case: case.name(),
            mechanism: match mechanism {
                Mechanism::Pvirq => "pvirq",
                _ => "x2apic",
            },
            stopped: culprit.name(),
            device: PVIRQ.into(),
            vcpus: case.vcpus(),
            stops: match culprit {
                Culprit::None => 0,
                _ => measured.stops,
            },
            left_pending: measured.left,
            events: measured.events,
            lost: measured.lost,
            cycles_per_event: Summary::of(&mut measured.cycles),
            longest: measured.cycles.iter().copied().max().unwrap_or(0),
            relative: None,
            cpu_faults: measured.cpu_faults,
        });
    }
    let first = rows.first().cloned();
    for (index, row) in rows.iter_mut().enumerate().skip(1) {
        row.relative = first.as_ref().and_then(|first| {
            let (summary, base) = (row.cycles_per_event?, first.cycles_per_event?);
            let ratio = |of: u64, to: u64| of as f64 / to as f64;
            let pairs = measured[index].medians.iter().zip(&measured[0].medians);
            let mut ratios: Vec<_> = pairs.map(|(&of, &to)| ratio(of, to)).collect();
            Some(FrozenRatios {
                pairs: ratios.len(),
                median_of_pairs: median(&mut ratios)?,
                p99: ratio(summary.p99, base.p99),
                longest: ratio(row.longest, first.longest),
            })
        });
    }
    rows
}

impl fmt::Display for FrozenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}, by {}: {} stops ({} left a bit), {} interrupts, {} lost",
            self.case,
            self.stopped,
            self.mechanism,
            self.stops,
            self.left_pending,
            self.events,
            self.lost
        )?;
        if let Some(cycles) = &self.cycles_per_event {
            write!(
                f,
                "; cycles: p50 {}, p99 {}, longest {}",
                cycles.p50, cycles.p99, self.longest
            )?;
        }
        if let Some(ratios) = &self.relative {
            write!(
                f,
                "; to native: {:.2} (median of {} pairs), p99 {:.2}, longest {:.2}",
                ratios.median_of_pairs, ratios.pairs, ratios.p99, ratios.longest
            )?;
        }
        Ok(())
    }
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct FrozenReport {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// The results.
    pub rows: Vec<FrozenRow>,
}

impl FrozenReport {
    /// Begins a report.
    pub fn new(cpus: &CpuList) -> Result<Self, Error> {
        Ok(FrozenReport {
            schema: SCHEMA,
            environment: Environment::of_host(cpus.len(), vec![2, 3], vec![PVIRQ.into()])?,
            rows: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_native_interrupts() {
        let cells = FrozenCase::Process.cells();
        let mut measured: Vec<_> = (1..=cells.len() as u64)
            .map(|factor| {
                let mut measured = Measured::default();
                measured.add(3, [10, 20, 30].into_iter().map(|cycles| cycles * factor));
                measured
            })
            .collect();
        let rows = rows(FrozenCase::Process, &cells, &mut measured);
        assert_eq!((rows[0].mechanism, rows[0].stopped), ("x2apic", "killed"));
        assert!(rows[0].relative.is_none());
        let last = rows[3].relative.unwrap();
        assert_eq!(
            (last.pairs, last.median_of_pairs, last.longest),
            (1, 4.0, 4.0)
        );
        assert_eq!(rows[3].longest, 120);
    }
}
