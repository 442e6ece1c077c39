// SPDX-License-Identifier: GPL-2.0

//! The progress of a CPU in an idle period.
//!
//! # Concurrency
//!
//! Only the CPU's idle task writes it. Others may read whether the CPU is idle, which may be outdated at once.

use kernel::sync::atomic::Atomic;
use kernel_ext_cpu::read_once::ReadOnce;

/// The next step of an idle CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    PollGuest = 0,
    PollHost = 1,
    Halt = 2,
}

/// The progress of a CPU in an idle period.
pub(crate) struct IdleState {
    step: Atomic<u32>,
    period: Atomic<u64>,
    /// Whether the CPU is in [`IdleDriver::enter`](kernel_ext_cpu::cpuidle::IdleDriver::enter).
    inside: Atomic<bool>,
    announced: Atomic<u32>,
}

impl IdleState {
    pub(crate) fn new() -> Self {
        Self {
            step: Atomic::new(Step::PollGuest as u32),
            period: Atomic::new(0),
            inside: Atomic::new(false),
            announced: Atomic::new(0),
        }
    }

    /// Returns whether the CPU is idle in this module's driver, which may be outdated at once.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.inside.read_once()
    }

    /// Notes whether the CPU is in the driver.
    #[inline]
    pub(crate) fn set_idle(&self, inside: bool) {
        self.inside.write_once(inside);
    }

    /// Returns the number of the last registration for which the CPU has announced itself.
    #[inline]
    pub(crate) fn announced(&self) -> &Atomic<u32> {
        &self.announced
    }

    /// Returns the next step in an idle period, the first one in a new period.
    #[inline]
    pub(crate) fn step(&self, period: u64) -> Step {
        if self.period.read_once() != period {
            return Step::PollGuest;
        }
        match self.step.read_once() {
            1 => Step::PollHost,
            2 => Step::Halt,
            _ => Step::PollGuest,
        }
    }

    /// Sets the next step in an idle period.
    #[inline]
    pub(crate) fn set_step(&self, period: u64, step: Step) {
        self.period.write_once(period);
        self.step.write_once(step as u32);
    }
}
