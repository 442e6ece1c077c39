// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every vCPU's part of a storm: it sends interrupts to all others at random, and rests at random meanwhile.
//!
//! A vCPU that halts relies on an interrupt to wake it, and the only interrupts are the storm's. So vCPU 0 never halts,
//! and sends until the others have sent all of theirs. Then it says that the storm is over, sends each of them one last
//! interrupt, which wakes those that halt, and no vCPU halts any more. If an interrupt is lost after all, vCPU 0's patience
//! ends. It counts, and only then wakes the others by other means, which would hide the loss.

use core::{fmt::Write, sync::atomic::Ordering::SeqCst};

use mini_guest::{storm_vector, Job, Random, Shared};
use pvirq_protocol::Vector;

use crate::{
    console::Console,
    cpu,
    ipi::{self, add_one, sendable, IpiMethod, Sends},
    polling,
    sender::spin_until,
};

/// A vCPU in a storm.
struct Vcpu<'a> {
    shared: &'a Shared,
    job: &'a Job,
    index: u32,
    vcpus: u32,
    method: IpiMethod,
    vector: Vector,
    sends: Sends,
    random: Random,
}

/// Takes part in a storm. Interrupts are off before and afterwards.
pub fn run(shared: &Shared, job: &Job, index: u32) {
    let mut vcpu = Vcpu {
        shared,
        job,
        index,
        vcpus: shared.vcpus.load(SeqCst),
        method: IpiMethod::new(job.mechanism),
        vector: sendable(storm_vector(job.merges(), index)),
        sends: Sends::default(),
        random: Random::of_vcpu(job.seed, index),
    };
    cpu::enable_interrupts();
    vcpu.take_part();
    match index {
        0 => vcpu.end_storm(),
        _ => vcpu.await_end(),
    }
    match vcpu.stopped() {
        true => cpu::disable_interrupts(),
        // An interrupt may be on its way, though its sequence number has been acknowledged.
        false => polling::settle(shared, index),
    }
    vcpu.sends.publish(shared, index);
}

impl Vcpu<'_> {
    fn stopped(&self) -> bool {
        self.shared.stop.load(SeqCst) != 0
    }

    /// Sends what the job wants, unless a loss makes that impossible.
    fn take_part(&mut self) {
        let mut sends = 0;
        let mut start = cpu::cycles();

        while sends < self.job.sends && !self.stopped() {
            if self.send_to_any() {
                sends += 1;
                start = cpu::cycles();
            } else if self.index == 0 && cpu::cycles().wrapping_sub(start) > self.job.patience {
                return;
            }
            self.rest();
        }
    }

    /// Sends to any vCPU that may be sent to, and says whether there is one.
    fn send_to_any(&mut self) -> bool {
        let others = self.vcpus - 1;
        let first = self.random.below(others.into()) as u32;
        let target = (0..others)
            .map(|turn| (self.index + 1 + (first + turn) % others) % self.vcpus)
            .find(|&target| self.job.merges() || self.arrived(target));

        if let Some(target) = target {
            self.note(target);
            self.send(target);
        }
        target.is_some()
    }

    /// Whether all that this vCPU has sent to the target has arrived.
    fn arrived(&self, target: u32) -> bool {
        let storm = &self.shared.storms[target as usize];
        let sender = self.index as usize;

        storm.acknowledged[sender].load(SeqCst) == storm.sent[sender].load(SeqCst)
    }

    /// Leaves the sequence number of the interrupt that is going to be sent.
    fn note(&self, target: u32) {
        let sent = &self.shared.storms[target as usize].sent[self.index as usize];
        sent.store(sent.load(SeqCst) + 1, SeqCst);
    }

    /// Sends an interrupt, and counts it if it may cause a delivery.
    fn send(&mut self, target: u32) {
        let coalesced = self.sends.posts.coalesced;
        self.method
            .raise(self.shared, self.vector, target, &mut self.sends);
        if self.sends.posts.coalesced == coalesced {
            add_one(&self.shared.storms[target as usize].deliveries[self.index as usize]);
        }
    }

    /// Does something for a while, or nothing. Interrupts are on before and afterwards.
    fn rest(&mut self) {
        let span = self.random.below(self.job.gap.max(1));
        // vCPU 0 does not halt.
        let choices = if self.index == 0 { 3 } else { 5 };
        match self.random.below(choices) {
            0 => {}
            1 => _ = spin_until(span, || false),
            2 => _ = self.poll(span),
            // As an operating system's idle loop does.
            3 if self.poll(span) == 0 => self.halt(),
            3 => {}
            _ => {
                cpu::disable_interrupts();
                self.halt();
            }
        }
        cpu::enable_interrupts();
    }

    /// See [`polling::poll_for`].
    fn poll(&self, span: u64) -> u32 {
        polling::poll_for(self.shared, self.index, span)
    }

    /// Halts until there is an interrupt, unless there may never be one again. Interrupts are off before, and nothing is in
    /// the descriptor that was posted because this vCPU will poll.
    fn halt(&self) {
        if self.shared.over.load(SeqCst) == 0 && !self.stopped() {
            cpu::halt();
        }
    }

    /// Waits for the end.
    fn await_end(&mut self) {
        self.shared.finished.fetch_add(1, SeqCst);
        while self.shared.over.load(SeqCst) != 2 && !self.stopped() {
            self.rest();
        }
        let storm = &self.shared.storms[self.index as usize];
        while storm.totals().missing != 0 && !self.stopped() {
            self.poll(self.job.gap);
            cpu::enable_interrupts();
        }
    }

    /// Ends the storm once all others have sent what they wanted to.
    fn end_storm(&mut self) {
        let start = cpu::cycles();
        let (shared, others) = (self.shared, self.vcpus - 1);
        let finished = || shared.finished.load(SeqCst) == others;
        while !finished() {
            if cpu::cycles().wrapping_sub(start) > self.job.patience {
                return self.give_up();
            }
            self.send_to_any();
            spin_until(self.job.gap, finished);
        }

        if !spin_until(self.job.patience, || {
            (1..others + 1).all(|target| self.arrived(target))
        }) {
            return self.give_up();
        }
        (1..self.vcpus).for_each(|target| self.note(target));
        self.shared.over.store(1, SeqCst);
        (1..self.vcpus).for_each(|target| self.send(target));
        self.shared.over.store(2, SeqCst);

        if !spin_until(self.job.patience, || self.missing() == 0) {
            self.give_up();
        }
    }

    /// The number of interrupts that have not been acknowledged.
    fn missing(&self) -> u64 {
        let storms = &self.shared.storms[..self.vcpus as usize];
        storms.iter().map(|storm| storm.totals().missing).sum()
    }

    /// Counts what is lost, and stops the others.
    fn give_up(&self) {
        for (target, storm) in (0..self.vcpus).zip(&self.shared.storms) {
            let _ = writeln!(
                Console::lock(),
                "mini-guest: vCPU {target}: {:?}, {} interrupts, {:?}",
                storm.totals(),
                self.shared.slots[target as usize].interrupts.load(SeqCst),
                self.shared.descriptors[target as usize],
            );
        }
        // At least the one that made this vCPU give up.
        self.shared.lost.store(self.missing().max(1), SeqCst);
        self.shared.stop.store(1, SeqCst);
        ipi::wake_others();
    }
}
