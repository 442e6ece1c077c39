// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every vCPU's part of a run in which the VMM saves and restores the VM: it interrupts the others, and rests at random
//! meanwhile, in each way that there is. See [`Survival`](mini_guest::Survival).
//!
//! vCPU 0 never halts, sends to each vCPU whose last interrupt from here has been handled, and reads the epoch now and then. So
//! a vCPU that halts has an interrupt under way, or is about to get one.

use core::{fmt::Write, sync::atomic::Ordering::SeqCst};

use mini_guest::{Job, Mechanism, Random, Shared, LEDGER_SOURCES, LEDGER_VCPUS, LEDGER_VECTORS};
use pvirq_protocol::Vector;

use crate::{
    console::Console,
    cpu, heal,
    ipi::{self, add_one, sendable, IpiMethod, Sends},
    polling, pvirq,
    sender::spin_until,
};

/// So many rests lie between two reads of the epoch.
const CHECKED: u32 = 4;

struct Vcpu<'a> {
    shared: &'a Shared,
    job: &'a Job,
    index: u32,
    vcpus: u32,
    method: IpiMethod,
    vector: Vector,
    sends: Sends,
    random: Random,
    rests: u32,
}

/// Takes part. Interrupts are off before and afterwards.
pub fn run(shared: &Shared, job: &Job, index: u32) {
    let mut vcpu = Vcpu {
        shared,
        job,
        index,
        vcpus: shared.vcpus.load(SeqCst).min(LEDGER_VCPUS as u32),
        method: IpiMethod::new(job.mechanism),
        vector: sendable(LEDGER_VECTORS + index as u8),
        sends: Sends::default(),
        random: Random::of_vcpu(job.seed, index),
        rests: 0,
    };
    if index >= vcpu.vcpus {
        return;
    }
    cpu::enable_interrupts();
    while !vcpu.is_over() {
        vcpu.send_to_any();
        vcpu.rest();
    }
    vcpu.end();
    vcpu.sends.publish(shared, index);
}

impl Vcpu<'_> {
    fn is_over(&self) -> bool {
        self.shared.survival.over.load(SeqCst) != 0
    }

    /// Sends to any vCPU that has handled the last interrupt from here, if there is one.
    fn send_to_any(&mut self) {
        let others = self.vcpus - 1;
        let first = self.random.below(others.into()) as u32;
        let ledgers = &self.shared.survival.ledgers;
        let source = self.index as usize;
        let target = (0..others)
            .map(|turn| (self.index + 1 + (first + turn) % others) % self.vcpus)
            .find(|&target| ledgers[target as usize].account(source).missing() == 0);

        if let Some(target) = target {
            add_one(&ledgers[target as usize].sent[source].value);
            self.method
                .raise(self.shared, self.vector, target, &mut self.sends);
        }
    }

    fn posts(&self) -> bool {
        self.job.mechanism == Mechanism::Pvirq
    }

    /// Does something for a while, or nothing. Interrupts are on before and afterwards.
    fn rest(&mut self) {
        self.rests += 1;
        if self.posts() && self.rests % CHECKED == 0 {
            heal::check(self.shared);
        }
        let span = self.random.below(self.job.gap.max(1));
        // vCPU 0 does not halt.
        let choices = if self.index == 0 { 4 } else { 7 };
        match self.random.below(choices) {
            0 => {}
            1 => _ = spin_until(span, || false),
            2 => _ = self.poll(span),
            3 => _ = self.idle(),
            4 if self.poll(span) == 0 => self.halt(),
            4 => {}
            5 if self.idle() => self.halt(),
            5 => {}
            _ => {
                cpu::disable_interrupts();
                self.halt();
            }
        }
        cpu::enable_interrupts();
    }

    /// Polls the descriptor until something happens, handles what is there, and says how much it was. Interrupts are off
    /// afterwards.
    fn poll(&self, span: u64) -> u32 {
        if self.posts() {
            return polling::poll_for(self.shared, self.index, span);
        }
        let interrupts = &self.shared.slots[self.index as usize].interrupts;
        let before = interrupts.load(SeqCst);
        spin_until(span, || interrupts.load(SeqCst) != before);
        cpu::disable_interrupts();
        0
    }

    /// Makes the idle call, and says whether the vCPU may halt. Interrupts are off afterwards.
    fn idle(&self) -> bool {
        cpu::disable_interrupts();
        if !self.posts() {
            return true;
        }
        let may_halt = pvirq::idle(&self.shared.descriptors[self.index as usize]);
        cpu::disable_interrupts();
        may_halt
    }

    /// Halts until there is an interrupt, unless there may never be one again. Interrupts are off before.
    fn halt(&self) {
        if !self.is_over() {
            cpu::halt();
        }
    }

    /// Takes what is under way. Interrupts are off afterwards.
    fn end(&mut self) {
        let survival = &self.shared.survival;

        if self.index == 0 {
            // Those that halt learn that it is over.
            ipi::wake_others();
        }
        survival.finished.fetch_add(1, SeqCst);
        let start = cpu::cycles();
        while survival.finished.load(SeqCst) != self.vcpus || survival.missing() != 0 {
            if self.shared.stop.load(SeqCst) != 0 {
                break;
            }
            if self.posts() {
                heal::check(self.shared);
            }
            self.poll(self.job.gap);
            cpu::enable_interrupts();
            if self.index == 0 && cpu::cycles().wrapping_sub(start) > self.job.patience {
                self.give_up();
            }
        }
        // What comes once too often has time to come.
        spin_until(self.job.gap, || false);
        polling::settle(self.shared, self.index);
    }

    /// Counts what is lost, and stops the others.
    fn give_up(&self) {
        let survival = &self.shared.survival;
        for (target, ledger) in survival.ledgers.iter().enumerate() {
            for source in 0..LEDGER_SOURCES {
                let account = ledger.account(source);
                if account.missing() != 0 {
                    let _ = writeln!(
                        Console::lock(),
                        "mini-guest: vCPU {target}, source {source}: {account:?}, {:?}",
                        self.shared.descriptors[target],
                    );
                }
            }
        }
        // At least the one that made this vCPU lose its patience.
        self.shared.lost.store(survival.missing().max(1), SeqCst);
        self.shared.stop.store(1, SeqCst);
        ipi::wake_others();
    }
}
