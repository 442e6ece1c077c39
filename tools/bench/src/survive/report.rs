// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What became of the interrupts of guests that were saved and restored.

use std::{fmt, sync::atomic::Ordering::SeqCst};

use mini_guest::{Shared, LEDGER_SOURCES, LEDGER_VCPUS};
use pvirq::device::{KVM, PVIRQ};
use serde::Serialize;
use vmm::{cpus::CpuList, error::Error};

use super::{
    case::SurviveCase,
    events::Events,
    round::{Auditor, Counts},
};
use crate::{environment::Environment, report::Posts, results::SCHEMA};

/// What became of a guest's interrupts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SurviveRow {
    bench: &'static str,
    case: &'static str,
    /// How the vCPUs interrupt each other.
    pub mechanism: &'static str,
    /// Where the VM was saved and restored: `kvm`, `pvirq`, or `both` at random.
    pub devices: &'static str,
    /// How the VMM saves what is posted: `lapic`, or `posted` with pvirq's ioctls as well.
    pub saved_by: &'static str,
    /// The number of vCPUs.
    pub vcpus: usize,
    /// What the random numbers begin with.
    pub seed: u64,
    /// Saves and restores.
    pub rounds: u64,
    /// Interrupts between vCPUs.
    pub ipis: u64,
    /// Signals of eventfds.
    pub signals: u64,
    /// Those of them while no vCPU was in `KVM_RUN`.
    pub signals_while_paused: u64,
    /// Interrupts that did not arrive.
    pub lost: u64,
    /// Interrupts that arrived twice.
    pub twice: u64,
    /// Interrupts that were in the local APICs when they were saved.
    pub saved_in_lapics: u64,
    /// Interrupts that were read and set by pvirq's ioctls.
    pub saved_as_posted: u64,
    /// vCPUs that were saved while halted.
    pub halted: u64,
    /// How often the guest has found that its registration was gone.
    pub heals: u64,
    /// How many interrupts it found pending then.
    pub healed: u64,
    /// How often it has registered.
    pub registrations: u64,
    /// What became of the vCPUs' posts.
    pub posts: Posts,
    /// How often a guest was started again, because a CPU did what none should.
    pub cpu_faults: u32,
    /// How long it took.
    pub seconds: f64,
}

impl SurviveRow {
    pub(super) fn new(case: &SurviveCase, seed: u64) -> Self {
        SurviveRow {
            bench: "survive",
            case: "save-restore",
            mechanism: case.mechanism(),
            devices: case.devices.name(),
            saved_by: case.posted(),
            vcpus: case.vcpus,
            seed,
            ..Default::default()
        }
    }

    pub(super) fn add(&mut self, counts: &Counts) {
        self.signals_while_paused += counts.signalled;
        self.saved_in_lapics += counts.in_lapics;
        self.saved_as_posted += counts.posted;
        self.halted += counts.halted;
    }

    /// Adds what a guest has left that has parked.
    pub(super) fn end(&mut self, shared: &Shared, auditor: &Auditor, events: &Events) {
        let survival = &shared.survival;
        let count = |of: fn(mini_guest::Account) -> u64| -> u64 {
            let ledgers = survival.ledgers.iter();
            ledgers
                .flat_map(|ledger| (0..LEDGER_SOURCES).map(|source| of(ledger.account(source))))
                .sum()
        };
        let ipis = survival.ledgers.iter().flat_map(|ledger| {
            let sources = ledger.sent[..LEDGER_VCPUS].iter();
            sources.map(|number| number.value.load(SeqCst))
        });

        self.ipis += ipis.sum::<u64>();
        self.signals += events.signals();
        self.lost += auditor.lost + count(mini_guest::Account::missing);
        self.twice += auditor.twice + count(mini_guest::Account::repeated);
        self.heals += survival.heals.load(SeqCst);
        self.healed += survival.healed.load(SeqCst);
        self.registrations += survival.registrations.load(SeqCst);
        self.posts.add(&shared.posts.tally());
    }
}

impl fmt::Display for SurviveRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SurviveRow {
            devices,
            mechanism,
            vcpus,
            saved_by,
            rounds,
            ipis,
            signals,
            lost,
            twice,
            posts,
            ..
        } = self;
        write!(
            f,
            "{devices}, {mechanism}, {vcpus} vCPUs, {saved_by}: {rounds} saves and restores in {:.0} s, {ipis} IPIs \
             ({} elided, {} coalesced), {signals} signals ({} while paused): {lost} lost, {twice} twice; \
             {} registrations, {} saved in local APICs, {} as posted, {} healed",
            self.seconds,
            posts.elided,
            posts.coalesced,
            self.signals_while_paused,
            self.registrations,
            self.saved_in_lapics,
            self.saved_as_posted,
            self.healed,
        )
    }
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct SurviveReport {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// The results.
    pub rows: Vec<SurviveRow>,
}

impl SurviveReport {
    /// Begins a report.
    pub fn new(cpus: &CpuList, vcpus: &[usize]) -> Result<Self, Error> {
        let devices = vec![KVM.into(), PVIRQ.into()];
        Ok(SurviveReport {
            schema: SCHEMA,
            environment: Environment::of_host(cpus.len(), vcpus.to_vec(), devices)?,
            rows: Vec::new(),
        })
    }

    /// Interrupts that were lost or came twice.
    pub fn misdelivered(&self) -> u64 {
        self.rows.iter().map(|row| row.lost + row.twice).sum()
    }
}
