// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The idle loop: what a vCPU does that has nothing to do, see Documentation/idle.rst.
//!
//! It polls its descriptor, lets its host poll, and executes HLT. For how long it polls, and whether the host does, is the
//! host's to say, anew for each idle period. There are two guests as well that do not ask, and have no host to poll for
//! them: they are what a host is compared with. Senders elide their interrupts all the same while such a guest polls, as
//! Linux's scheduler does for an idle CPU that polls.

use core::sync::atomic::Ordering::Relaxed;

use mini_guest::{IdleCounts, IdleMode, Job, Shared};
use pvirq_policy::poll_window::{Governor, Policy};
use pvirq_protocol::Descriptor;

use crate::{cpu, ipi::add_one, polling, pvirq};

/// The idle loop of a vCPU.
pub struct Idle<'a> {
    shared: &'a Shared,
    index: u32,
    descriptor: &'a Descriptor,
    counts: &'a IdleCounts,
    khz: u64,
    /// What decides how long it polls.
    idle_mode: IdleMode,
    /// The longest window of a guest that decides itself, in ns.
    ceiling: u32,
    /// When and for how many cycles the period that has begun polls, if it does.
    polling: Option<(u64, u64)>,
}

/// Where an idle period ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// While the vCPU polled.
    Guest,
    /// While its host polled.
    Host,
    /// In a HLT.
    Halt,
}

impl<'a> Idle<'a> {
    /// The idle loop of the vCPU `index`, this one, for a job that has it rest like that.
    pub fn new(shared: &'a Shared, job: &Job, index: u32) -> Self {
        let idle_mode = job.idle_mode.of(index);

        Idle {
            shared,
            index,
            descriptor: &shared.descriptors[index as usize],
            counts: &shared.slots[index as usize].idle,
            khz: shared.tsc_khz.load(Relaxed).into(),
            idle_mode,
            ceiling: job.window,
            polling: None,
        }
    }

    /// Begins an idle period: from now on senders see that this vCPU polls, if it does. Interrupts are off.
    pub fn begin(&mut self) {
        let window = match self.idle_mode {
            IdleMode::Idle => self.descriptor.guest_poll_ns(),
            IdleMode::Spin => self.ceiling,
            _ => Governor.current(self.counts.window.load(Relaxed), self.ceiling),
        };
        self.polling = (window != 0).then(|| {
            self.descriptor.enter_polling();
            (cpu::cycles(), u64::from(window) * self.khz / 1_000_000)
        });
    }

    /// Is idle until there is something to do, which is handled if it is in the descriptor, and says where that was. It may
    /// also have been for nothing.
    ///
    /// The period has [begun](Self::begin). Interrupts are off before and afterwards, and on meanwhile. Before, there is
    /// nothing to do; `nothing_to_do` says whether that is still so.
    pub fn wait(&mut self, nothing_to_do: impl Fn() -> bool) -> Ended {
        let ended = self.wait_in_turn(nothing_to_do);
        add_one(match ended {
            Ended::Guest => &self.counts.in_guest,
            Ended::Host => &self.counts.in_host,
            Ended::Halt => &self.counts.in_halt,
        });
        ended
    }

    fn wait_in_turn(&mut self, nothing_to_do: impl Fn() -> bool) -> Ended {
        if self.poll(&nothing_to_do) {
            return Ended::Guest;
        }
        if self.idle_mode == IdleMode::Idle && self.descriptor.host_poll_ns() != 0 {
            let may_halt = pvirq::idle(self.descriptor);
            cpu::disable_interrupts();
            if !may_halt || !nothing_to_do() {
                return Ended::Host;
            }
        }
        let start = cpu::cycles();
        cpu::halt();
        cpu::disable_interrupts();
        if self.idle_mode == IdleMode::Governor {
            let window = Governor.current(self.counts.window.load(Relaxed), self.ceiling);
            let next = Governor.next(window, self.ns_since(start), self.ceiling);
            self.counts.window.store(next, Relaxed);
        }
        Ended::Halt
    }

    /// Polls the descriptor, with interrupts on, if the period does, handles what comes, and says whether there is something
    /// to do.
    fn poll(&mut self, nothing_to_do: impl Fn() -> bool) -> bool {
        let Some((start, span)) = self.polling.take() else {
            return false;
        };
        // The host takes its window away if others want the CPU.
        let taken_away =
            || self.idle_mode == IdleMode::Idle && self.descriptor.guest_poll_ns() == 0;

        add_one(&self.counts.polls);
        polling::poll(self.descriptor, || {
            nothing_to_do() && !taken_away() && cpu::cycles().wrapping_sub(start) < span
        });
        let handled = polling::leave_polling(self.shared, self.index);
        let polled = cpu::cycles().wrapping_sub(start);
        self.counts
            .polled
            .store(self.counts.polled.load(Relaxed) + polled, Relaxed);
        let hit = handled != 0 || !nothing_to_do();
        if hit && self.idle_mode == IdleMode::Idle {
            self.descriptor.count_idle_hit();
        }
        hit
    }

    fn ns_since(&self, start: u64) -> u64 {
        let cycles = cpu::cycles().wrapping_sub(start);
        // A clock that stands still has no idle periods.
        cycles.saturating_mul(1_000_000) / self.khz.max(1)
    }
}
