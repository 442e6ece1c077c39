// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The thread of the VMM that signals eventfds.

use std::{arch::x86_64::_rdtsc, sync::atomic::Ordering::SeqCst, thread, time::Duration};

use exit_count::exits::Exits;
use mini_guest::Shared;
use pvirq::mapped::MappedDescriptors;
use pvirq_protocol::{ioctl::Poll, HostState, Posted};
use vmm::{cpus, error::Error, spin::spin_until};
use vmm_sys_util::eventfd::EventFd;

use super::{
    case::{InjectCase, Injection, Signals},
    ready::vector,
    submission::Submission,
};
use crate::{session::GAP, target::Target};

/// How long an interrupt may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// What pieces add up to.
#[derive(Default)]
pub struct Sum {
    /// Signals.
    pub events: u64,
    /// Bursts that were not acknowledged.
    pub lost: u64,
    /// How often the target's interrupt handler ran, or it found the vector in its descriptor.
    pub handled: u64,
    /// System calls of the sender.
    pub system_calls: u64,
    /// How often bottom halves delivered.
    pub kicks: u64,
    /// The targets' exits.
    pub exits: Exits,
    /// Cycles from before the first signal of each burst to the sender's sight of the last one's acknowledgement.
    pub cycles: Vec<u64>,
}

impl Sum {
    /// Adds what was measured later.
    pub fn add(&mut self, other: Sum) {
        self.events += other.events;
        self.lost += other.lost;
        self.handled += other.handled;
        self.system_calls += other.system_calls;
        self.kicks += other.kicks;
        self.exits += other.exits;
        self.cycles.extend(other.cycles);
    }
}

/// What the sender signals, and how.
pub struct Signal<'a> {
    pub case: &'a InjectCase,
    pub injection: Injection,
    pub descriptors: Option<&'a MappedDescriptors>,
    pub sources: &'a [Vec<EventFd>],
    pub cpu: usize,
}

impl Signal<'_> {
    /// Sends so many bursts to the targets in turn, to each the same number, and waits for each to be acknowledged.
    ///
    /// It stops at the first that is not.
    pub fn send(&self, shared: &Shared, bursts: u32) -> Result<Sum, Error> {
        let mut piece = Sum::default();
        let targets = self.sources.len();
        let mut sequences = vec![0; targets];

        // The vCPUs stay on their CPUs, and so does this.
        cpus::pin(self.cpu)?;
        for index in (0..targets).cycle().take(bursts as usize) {
            let sequence = &mut sequences[index];
            let slot = &shared.slots[1 + index];
            let rests = || slot.rested.load(SeqCst) == slot.sent.load(SeqCst) + 1;

            if spin_until(PATIENCE, rests) {
                self.wait_for_rest(shared, 1 + index);
                let sources = &self.sources[index];
                let submission = match self.case.signals {
                    Signals::Kernel => Some(Submission::new(sources)?),
                    _ => None,
                };
                let start = cycles();
                piece.events += u64::from(self.case.burst);
                match &submission {
                    Some(submission) => {
                        *sequence += u64::from(self.case.burst);
                        slot.sent.store(*sequence, SeqCst);
                        submission.submit()?;
                        piece.system_calls += 1;
                    }
                    None => {
                        for (source, number) in sources.iter().zip(0..) {
                            *sequence += 1;
                            slot.sent.store(*sequence, SeqCst);
                            piece.system_calls +=
                                u64::from(self.signal(1 + index as u32, number, source)?);
                        }
                    }
                }
                if spin_until(PATIENCE, || slot.acknowledged.load(SeqCst) == *sequence) {
                    piece.cycles.push(cycles() - start);
                    continue;
                }
            }
            piece.lost += 1;
            shared.stop.store(1, SeqCst);
            break;
        }
        Ok(piece)
    }

    /// Waits until the target is in the state in which the case interrupts it.
    fn wait_for_rest(&self, shared: &Shared, vcpu: usize) {
        match self.case.target {
            Target::Halted => thread::sleep(GAP),
            Target::PollingHost if self.injection != Injection::Irqfd => {
                let descriptor = &shared.descriptors[vcpu];
                spin_until(Duration::from_nanos(Poll::MAX_NS.into()), || {
                    descriptor.host_state() == HostState::Polling
                });
            }
            Target::PollingHost => thread::sleep(GAP),
            _ => {}
        }
    }

    /// Signals a source; says whether that took a system call.
    fn signal(&self, vcpu: u32, number: u32, source: &EventFd) -> Result<bool, Error> {
        if let Some(descriptors) = self.descriptors {
            let vector = vector(self.case.vector(number))?;
            if descriptors.post_once(vcpu, vector) != Posted::Kick {
                return Ok(false);
            }
        }
        source
            .write(1)
            .map_err(Error::os("cannot signal an eventfd"))?;
        Ok(true)
    }
}

fn cycles() -> u64 {
    // SAFETY: Every 64-bit CPU has the instruction.
    unsafe { _rdtsc() }
}
