// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What was measured.

use std::sync::atomic::Ordering::SeqCst;

use exit_count::exits::Exits;
use mini_guest::{JobKind, Shared, CYCLES_LEN};
use pvirq_protocol::Tally;
use vmm::{error::Error, machine::Machine, vcpu::Counts};

use crate::{row::add_posts, summary::Summary};

/// What was measured for one case on one device.
#[derive(Clone, Debug, Default)]
pub struct Measurement {
    /// Interrupts that were acknowledged.
    pub delivered: u64,
    /// Interrupts that were not.
    pub lost: u64,
    /// Interrupts that arrived again.
    pub duplicates: u64,
    /// How posts ended.
    pub posts: Tally,
    /// How often the sender sent natively.
    pub native_sends: u64,
    /// The sender's exits.
    pub sender: Exits,
    /// All targets' exits.
    pub target: Exits,
    /// Cycles of each event.
    pub cycles: Vec<u64>,
    /// What the guest says about interrupts that were lost.
    pub console: String,
    /// Each piece's exits per event, but timer ticks, and median of cycles per event.
    pub pieces: Vec<Piece>,
}

/// What is compared of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Exits per event of sender and targets, timer ticks aside.
    pub exits: f64,
    /// The median of cycles per event; not a number if they were not measured.
    pub cycles: f64,
}

impl Measurement {
    /// Takes what a job left.
    pub fn collect(machine: &Machine, kind: JobKind, counts: &[Counts]) -> Result<Self, Error> {
        let shared = machine.shared()?;
        let storm = kind == JobKind::Storm;
        let delivered = shared.events.load(SeqCst);
        let slots = &shared.slots[..machine.vcpus()];
        let mut measurement = Measurement {
            delivered,
            lost: shared.lost.load(SeqCst),
            duplicates: slots.iter().map(|slot| slot.duplicates.load(SeqCst)).sum(),
            posts: shared.posts.tally(),
            native_sends: shared.native_sends.load(SeqCst),
            ..Default::default()
        };
        if storm {
            measurement.add_storm(shared, machine.vcpus())?;
        }
        if measurement.lost != 0 {
            measurement.console += &machine.console();
        }
        for (vcpu, count) in counts.iter().enumerate() {
            // Nor is the port at the end of a storm a part of the job.
            let ports = 1 + u32::from(storm && measurement.lost == 0);
            let exits = count.exits(vcpu, ports)?;
            let side = if vcpu == 0 {
                &mut measurement.sender
            } else {
                &mut measurement.target
            };
            *side += exits;
        }
        // None of a storm.
        let cycles = &shared.cycles[..CYCLES_LEN.min(delivered as usize)];
        measurement.cycles = cycles.iter().map(|cycles| cycles.load(SeqCst)).collect();
        let exits = measurement.sender.without_timer() + measurement.target.without_timer();
        let summary = Summary::of(&mut measurement.cycles.clone());
        if measurement.delivered != 0 {
            measurement.pieces.push(Piece {
                exits: exits as f64 / measurement.events() as f64,
                cycles: summary.map_or(f64::NAN, |summary| summary.p50 as f64),
            });
        }
        Ok(measurement)
    }

    /// Adds what the vCPUs have noted of a storm.
    fn add_storm(&mut self, shared: &Shared, vcpus: usize) -> Result<(), Error> {
        let mut missing = 0;
        for vcpu in 0..vcpus {
            let totals = shared.storms[vcpu].totals();
            let interrupts = shared.slots[vcpu].interrupts.load(SeqCst);

            self.delivered += totals.sent - totals.missing;
            missing += totals.missing;
            let duplicates = interrupts.saturating_sub(totals.deliveries);
            if duplicates != 0 {
                self.duplicates += duplicates;
                self.console += &format!("vCPU {vcpu}: {interrupts} interrupts, {totals:?}\n");
            }
        }
        // The guest's count is from before it woke those that had been left asleep.
        self.lost = self.lost.max(missing);
        match (0..vcpus).find(|&vcpu| shared.descriptors[vcpu].has_pending()) {
            Some(vcpu) if self.lost == 0 => Err(Error::Pending(vcpu)),
            _ => Ok(()),
        }
    }

    /// Adds what was measured later.
    pub fn add(&mut self, piece: Measurement) {
        self.delivered += piece.delivered;
        self.lost += piece.lost;
        self.duplicates += piece.duplicates;
        add_posts(&mut self.posts, &piece.posts);
        self.native_sends += piece.native_sends;
        self.sender += piece.sender;
        self.target += piece.target;
        self.console += &piece.console;
        self.cycles.extend(piece.cycles);
        self.pieces.extend(piece.pieces);
    }

    /// The number of events that were tried.
    pub fn events(&self) -> u64 {
        self.delivered + self.lost
    }
}
