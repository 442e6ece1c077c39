// SPDX-License-Identifier: GPL-2.0

//! How far a CPU has come in an idle period.
//!
//! # Concurrency
//!
//! It is the CPU's idle task's alone. Others may ask whether the CPU idles, and get an answer from just now.

use kernel::sync::atomic::Atomic;
use kernel_ext_cpu::read_once::ReadOnce;

/// What an idle CPU does next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    PollGuest = 0,
    PollHost = 1,
    Halt = 2,
}

/// How far a CPU has come in an idle period.
pub(crate) struct IdleState {
    step: Atomic<u32>,
    period: Atomic<u64>,
    /// Whether the CPU is inside [`IdleDriver::enter`].
    inside: Atomic<bool>,
    greeted: Atomic<u32>,
}

impl IdleState {
    pub(crate) fn new() -> Self {
        Self {
            step: Atomic::new(Step::PollGuest as u32),
            period: Atomic::new(0),
            inside: Atomic::new(false),
            greeted: Atomic::new(0),
        }
    }

    /// Returns whether the CPU idles, which may change right away.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.inside.read_once()
    }

    /// Notes whether the CPU idles by our driver.
    #[inline]
    pub(crate) fn set_idle(&self, inside: bool) {
        self.inside.write_once(inside);
    }

    /// Returns the last registration that the CPU has made itself known to.
    #[inline]
    pub(crate) fn greeted(&self) -> &Atomic<u32> {
        &self.greeted
    }

    /// Returns the step that is next in a period.
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

    /// Sets it.
    #[inline]
    pub(crate) fn set_step(&self, period: u64, step: Step) {
        self.period.write_once(period);
        self.step.write_once(step as u32);
    }
}
