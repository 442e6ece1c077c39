// SPDX-License-Identifier: GPL-2.0

//! When a vCPU is kicked: at once, or, for bursts of signals, together with those that are still to come.
//!
//! The first signal is kicked for at once. Those that come until the vCPU has left the guest join it.
//! When it takes them it is known how many they were and what the kick took: if that was a [burst](Batch),
//! the vCPU is not kicked again before some multiple of that time is over, and what comes meanwhile is
//! delivered together at its end. A pause in which no burst came is followed by none.
//!
//! # Concurrency
//!
//! Those who kick write [`Moderation::signals`] and the times of a batch; the thread that runs the vCPU
//! takes them, and writes when the pause ends. Nothing here says what is pending, or who looks for it: if
//! a signal that comes at the wrong moment counts for the wrong batch, the next pause is wrong for once.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};
use kernel_ext::sched::task::monotonic_ns;
use pvirq_policy::moderation::Batch;

/// The longest pause that may be asked for.
const MAX_NS: u32 = 10_000_000;

/// Checks what the module's parameter says, and returns it.
pub(crate) fn parameter(moderation_ns: u32) -> Result<u32> {
    if moderation_ns > MAX_NS {
        pr_err!("moderation_ns={moderation_ns} is above {MAX_NS}\n");
        return Err(EINVAL);
    }
    Ok(moderation_ns)
}

/// What is known of a vCPU's kicks.
pub(crate) struct Moderation {
    /// The longest pause.
    ceiling_ns: u32,
    /// Signals that the vCPU has not taken yet.
    signals: Atomic<u32>,
    /// When the first of them came.
    first_ns: Atomic<u64>,
    /// When it is, or was, kicked for them.
    kick_ns: Atomic<u64>,
    /// When the pause ends; 0 if there is none.
    pause_end_ns: Atomic<u64>,
}

impl Moderation {
    pub(crate) fn new(ceiling_ns: u32) -> Self {
        Self {
            ceiling_ns,
            signals: Atomic::new(0),
            first_ns: Atomic::new(0),
            kick_ns: Atomic::new(0),
            pause_end_ns: Atomic::new(0),
        }
    }

    /// Counts a signal, and returns until when it is to wait, if it is. Any context.
    pub(crate) fn signal(&self) -> Option<u64> {
        if self.ceiling_ns == 0 {
            return None;
        }
        let first = self.signals.fetch_add(1, Relaxed) == 0;
        let pause_end_ns = self.pause_end_ns.load(Relaxed);
        if !first && pause_end_ns == 0 {
            return None;
        }
        let now_ns = monotonic_ns();
        let wait = now_ns < pause_end_ns;

        if first {
            self.first_ns.store(now_ns, Relaxed);
            self.kick_ns.store(now_ns.max(pause_end_ns), Relaxed);
        }
        wait.then_some(pause_end_ns)
    }

    /// Says that the vCPU takes what it has been kicked for. By the thread that runs it.
    pub(crate) fn take(&self) {
        let signals = self.signals.xchg(0, Relaxed);
        if signals == 0 {
            return;
        }
        let now_ns = monotonic_ns();
        let batch = Batch {
            signals,
            gathered_ns: now_ns.saturating_sub(self.first_ns.load(Relaxed)),
            kick_ns: now_ns.saturating_sub(self.kick_ns.load(Relaxed)),
        };
        let pause_end_ns = match batch.pause_ns(self.ceiling_ns) {
            0 => 0,
            pause_ns => now_ns.saturating_add(pause_ns),
        };

        self.pause_end_ns.store(pause_end_ns, Relaxed);
    }
}
