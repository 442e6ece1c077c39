// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The memory that the guest and its VMM share.
//!
//! All of it is atomics, because both sides access it at any time, and all of it is valid when zero, because that is
//! how the VMM's memory begins. The VMM writes a job while all vCPUs are parked; the port exits order the accesses.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use pvirq_protocol::{registers::Array, Descriptor, Tally};

use crate::{
    arrivals::Arrivals,
    frozen::Frozen,
    host::{Answer, Request},
    job::{IdleMode, Job, JobKind, Mechanism, Pattern},
    layout::MAX_VCPUS,
    ledger::Survival,
    storm::Storm,
};

/// The number of measurements that a job can leave.
pub const CYCLES_LEN: usize = 8192;

/// What the guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// It tests itself, reports on the console, and ends the machine.
    SelfTest,
    /// It parks, and does jobs.
    Jobs,
}

/// What concerns one vCPU, each writer on its own cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// Written by the sender: the sequence number of the last interrupt that it sent here.
    pub sent: AtomicU64,
    _sender: [u64; 7],
    /// Written by the interrupt handler: the last sequence number that it saw.
    pub acknowledged: AtomicU64,
    /// Written by the interrupt handlers: how often they ran.
    pub interrupts: AtomicU64,
    /// Written by the interrupt handler: how often there was nothing new to acknowledge.
    pub duplicates: AtomicU64,
    /// Shared by KVM and the interrupt handler: KVM's "no EOI required" word.
    pub pv_eoi: AtomicU32,
    _padding: u32,
    /// Written by the vCPU at the start, for its interrupt handler: the address of its [`Storm`].
    pub storm: AtomicU64,
    /// Written by the interrupt handler, before it acknowledges: the time, in TSC cycles.
    pub arrived: AtomicU64,
    /// Written by the vCPU at the start, for its interrupt handler: the address of [`Shared::arrivals`].
    pub arrivals: AtomicU64,
    /// Written by the vCPU at the start, for its interrupt handler: the address of its [`Ledger`](crate::Ledger), if it
    /// has one.
    pub ledger: AtomicU64,
    /// Written by the vCPU: the sequence number that it had acknowledged when it last went to rest, plus one.
    pub rested: AtomicU64,
    /// Written by the vCPU.
    pub idle: IdleCounts,
    _vcpu: [u64; 1],
}

/// What a vCPU counts of its idle periods.
#[derive(Default)]
#[repr(C)]
pub struct IdleCounts {
    /// Those that ended while it polled its descriptor.
    pub in_guest: AtomicU64,
    /// Those that ended while its host polled for it.
    pub in_host: AtomicU64,
    /// Those that ended a HLT.
    pub in_halt: AtomicU64,
    /// For how many TSC cycles it has polled its descriptor.
    pub polled: AtomicU64,
    /// How often it has begun to poll its descriptor.
    pub polls: AtomicU64,
    /// Its window, in ns, where it adapts that itself. It stays from job to job.
    pub window: AtomicU32,
    _padding: u32,
}

impl IdleCounts {
    fn clear(&self) {
        let periods = [&self.in_guest, &self.in_host, &self.in_halt];
        let all = periods.into_iter().chain([&self.polled, &self.polls]);
        all.into_iter().for_each(|count| count.store(0, Relaxed));
    }
}

/// How a job's posts ended.
#[derive(Default)]
#[repr(C)]
pub struct Posts {
    coalesced: AtomicU64,
    elided: AtomicU64,
    kicked: AtomicU64,
}

impl Posts {
    /// Adds what a sender has counted.
    pub fn add(&self, tally: &Tally) {
        self.coalesced.fetch_add(tally.coalesced, SeqCst);
        self.elided.fetch_add(tally.elided, SeqCst);
        self.kicked.fetch_add(tally.kicked, SeqCst);
    }

    /// What all senders have counted.
    pub fn tally(&self) -> Tally {
        Tally {
            coalesced: self.coalesced.load(SeqCst),
            elided: self.elided.load(SeqCst),
            kicked: self.kicked.load(SeqCst),
        }
    }

    fn clear(&self) {
        self.coalesced.store(0, Relaxed);
        self.elided.store(0, Relaxed);
        self.kicked.store(0, Relaxed);
    }
}

/// The vCPUs' descriptors, on pages of their own, which suits the host's alignment whatever it is.
#[repr(C, align(4096))]
pub struct Descriptors([Descriptor; MAX_VCPUS]);

impl core::ops::Deref for Descriptors {
    type Target = [Descriptor];

    fn deref(&self) -> &[Descriptor] {
        &self.0
    }
}

/// The whole of it.
#[repr(C, align(4096))]
pub struct Shared {
    /// The number of vCPUs. Set by the VMM before the start.
    pub vcpus: AtomicU32,
    /// A [`Mode`]. Set by the VMM before the start.
    mode: AtomicU32,
    /// Whether to use KVM's paravirtual EOI. Set by the VMM before the start.
    pub pv_eoi: AtomicU32,
    /// The rate of the guest's clock. Set by the VMM before the start.
    pub tsc_khz: AtomicU32,
    /// The number of vCPUs that have started.
    pub online: AtomicU32,
    /// Set by the sender when it gives up, for targets that still wait.
    pub stop: AtomicU32,
    kind: AtomicU32,
    mechanism: AtomicU32,
    pattern: AtomicU32,
    idle_mode: AtomicU32,
    sends: AtomicU32,
    window: AtomicU32,
    gap: AtomicU64,
    seed: AtomicU64,
    patience: AtomicU64,
    command: AtomicU32,
    answer: AtomicU32,
    array: AtomicU64,
    array_count: AtomicU32,
    /// Interrupts that the job sent, or ports that it wrote.
    pub events: AtomicU64,
    /// Interrupts that were not acknowledged in time.
    pub lost: AtomicU64,
    /// The number of vCPUs that have sent all that they wanted to, in a storm.
    pub finished: AtomicU32,
    /// Written by vCPU 0 in a storm: 1 if no other vCPU will send any more, 2 if none will.
    pub over: AtomicU32,
    /// How the job's posts ended.
    pub posts: Posts,
    /// How often the job's senders sent natively, to one target or to several.
    pub native_sends: AtomicU64,
    /// One for each vCPU.
    pub slots: [Slot; MAX_VCPUS],
    /// One for each vCPU, by its APIC ID. What is registered is up to the VMM.
    pub descriptors: Descriptors,
    /// One for each vCPU as a target.
    pub storms: [Storm; MAX_VCPUS],
    /// What the idle vCPU is interrupted by, where that is the job.
    pub arrivals: Arrivals,
    /// What must survive saves and restores, where that is the job.
    pub survival: Survival,
    /// What senders that stop in their posts are told, where that is the job.
    pub frozen: Frozen,
    /// Cycles from a send to its acknowledgement, or where vCPUs are woken to its arrival, of the first [`CYCLES_LEN`]
    /// events.
    pub cycles: [AtomicU64; CYCLES_LEN],
    /// Written by the VMM: the cycles from each send to the next in [`JobKind::Wake`], again from the beginning after the
    /// last.
    pub intervals: [AtomicU64; CYCLES_LEN],
    /// The cycles from the first to the last send, there.
    pub span: AtomicU64,
}

impl Shared {
    /// Says what the guest is for.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u32, SeqCst);
    }

    /// Whether the guest is here for jobs.
    pub fn serves_jobs(&self) -> bool {
        self.mode.load(SeqCst) == Mode::Jobs as u32
    }

    /// Leaves a job, and clears what the last one left. No vCPU may be at work.
    pub fn set_job(&self, job: &Job) {
        self.kind.store(job.kind as u32, Relaxed);
        self.mechanism.store(job.mechanism as u32, Relaxed);
        self.pattern.store(job.pattern as u32, Relaxed);
        self.idle_mode.store(job.idle_mode as u32, Relaxed);
        self.sends.store(job.sends, Relaxed);
        self.gap.store(job.gap, Relaxed);
        self.seed.store(job.seed, Relaxed);
        self.patience.store(job.patience, Relaxed);
        self.window.store(job.window, Relaxed);
        self.span.store(0, Relaxed);
        self.events.store(0, Relaxed);
        self.lost.store(0, Relaxed);
        self.posts.clear();
        self.native_sends.store(0, Relaxed);
        self.finished.store(0, Relaxed);
        self.over.store(0, Relaxed);
        self.storms.iter().for_each(Storm::clear);
        self.arrivals.clear();
        self.survival.clear();
        self.frozen.clear();
        for slot in &self.slots {
            slot.sent.store(0, Relaxed);
            slot.acknowledged.store(0, Relaxed);
            slot.interrupts.store(0, Relaxed);
            slot.duplicates.store(0, Relaxed);
            slot.rested.store(0, Relaxed);
            slot.idle.clear();
        }
        self.stop.store(0, SeqCst);
    }

    /// Leaves something that is no job, to test that it is refused.
    pub fn clear_job(&self) {
        self.kind.store(u32::MAX, SeqCst);
    }

    /// Leaves a command for the guest to give to its host.
    pub fn set_request(&self, request: &Request) {
        self.array.store(request.array.address, Relaxed);
        self.array_count.store(request.array.count, Relaxed);
        self.command.store(request.command, Relaxed);
        self.set_answer(Answer::NoHost);
    }

    /// The command that the VMM has left.
    pub fn request(&self) -> Request {
        Request {
            array: Array {
                address: self.array.load(SeqCst),
                count: self.array_count.load(SeqCst),
            },
            command: self.command.load(SeqCst),
        }
    }

    /// Leaves the command's answer.
    pub fn set_answer(&self, answer: Answer) {
        self.answer.store(answer.to_wire(), SeqCst);
    }

    /// The command's answer.
    pub fn answer(&self) -> Answer {
        Answer::from_wire(self.answer.load(SeqCst))
    }

    /// The job, unless what is there is none.
    pub fn job(&self) -> Option<Job> {
        Some(Job {
            kind: JobKind::from_wire(self.kind.load(SeqCst))?,
            mechanism: Mechanism::from_wire(self.mechanism.load(Relaxed))?,
            pattern: Pattern::from_wire(self.pattern.load(Relaxed))?,
            idle_mode: IdleMode::from_wire(self.idle_mode.load(Relaxed))?,
            sends: self.sends.load(Relaxed),
            gap: self.gap.load(Relaxed),
            seed: self.seed.load(Relaxed),
            patience: self.patience.load(Relaxed),
            window: self.window.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use pvirq_protocol::registers::ARRAY_ALIGN;

    use super::*;

    #[test]
    fn no_two_writers_share_a_cache_line() {
        let lines = [
            offset_of!(Slot, sent),
            offset_of!(Slot, acknowledged),
            offset_of!(Slot, rested),
        ]
        .map(|offset| offset / 64);
        assert_eq!(lines, [0, 1, 2]);
        assert_eq!(offset_of!(Slot, pv_eoi) / 64, 1);
        assert_eq!(offset_of!(Slot, storm) / 64, 1);
        assert_eq!(offset_of!(Slot, arrived) / 64, 1);
        assert_eq!(offset_of!(Slot, arrivals) / 64, 1);
        assert_eq!(offset_of!(Slot, ledger) / 64, 1);
        assert_eq!(offset_of!(Slot, idle) / 64, 2);
        assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (192, 64));
        assert_eq!(offset_of!(Shared, slots) % 64, 0);
        assert_eq!(offset_of!(Shared, descriptors) as u64 % ARRAY_ALIGN, 0);
    }

    #[test]
    fn a_job_comes_back_and_clears_the_last_ones_results() {
        // SAFETY: All fields are integers or atomics of them, for which zero is valid.
        let shared: Box<Shared> = unsafe { Box::new(core::mem::zeroed()) };
        shared.lost.store(3, SeqCst);
        shared.stop.store(1, SeqCst);
        shared.posts.add(&Tally {
            elided: 2,
            ..Tally::default()
        });
        shared.slots[MAX_VCPUS - 1].acknowledged.store(9, SeqCst);
        shared.slots[1].idle.in_halt.store(4, SeqCst);
        shared.span.store(8, SeqCst);

        let job = Job {
            kind: JobKind::Exit,
            mechanism: Mechanism::PvIpi,
            pattern: Pattern::Broadcast,
            idle_mode: IdleMode::Halted,
            sends: 5,
            gap: 6,
            seed: 8,
            patience: 7,
            window: 9,
        };
        shared.set_job(&job);

        assert_eq!(shared.job(), Some(job));
        assert_eq!(shared.lost.load(SeqCst), 0);
        assert_eq!(shared.stop.load(SeqCst), 0);
        assert_eq!(shared.posts.tally(), Tally::default());
        assert_eq!(shared.slots[MAX_VCPUS - 1].acknowledged.load(SeqCst), 0);
        assert_eq!(shared.slots[1].idle.in_halt.load(SeqCst), 0);
        assert_eq!(shared.span.load(SeqCst), 0);
        shared.idle_mode.store(77, SeqCst);
        assert_eq!(shared.job(), None);
    }

    #[test]
    fn a_request_comes_back_and_clears_the_last_ones_answer() {
        // SAFETY: As above.
        let shared: Box<Shared> = unsafe { Box::new(core::mem::zeroed()) };
        let request = Request {
            array: Array {
                address: 0x1_2345_6700,
                count: 3,
            },
            command: 0x1_0001,
        };
        shared.set_request(&request);
        assert_eq!(shared.request(), request);
        assert_eq!(shared.answer(), Answer::NoHost);
    }
}
