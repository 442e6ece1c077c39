// SPDX-License-Identifier: GPL-2.0

//! Moderation of kicks: a vCPU that gets bursts of signals is kicked less often.
//!
//! The first signal kicks at once. Signals that come until the vCPU has left the guest join its batch. When the vCPU
//! takes the batch, its size and the time that the kick took are known: if it was a [burst](Batch), the vCPU is not
//! kicked again before a multiple of that time is over, and the signals of that pause are delivered together at its
//! end. A pause without a burst is the last one.
//!
//! # Concurrency
//!
//! Senders write [`Moderation::signals`] and the times of a batch; the thread that runs the vCPU takes them, and writes
//! the end of the pause. None of this decides which vectors are pending or which thread injects them: a signal that
//! races with the end of a batch may count for the wrong one, and then a single pause has the wrong length.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};
use kernel_ext::sched::task::monotonic_ns;
use pvirq_policy::moderation::Batch;

/// The largest value of the module's parameter.
const MAX_NS: u32 = 10_000_000;

/// Checks the module's parameter, and returns it.
pub(crate) fn parameter(moderation_ns: u32) -> Result<u32> {
    if moderation_ns > MAX_NS {
        pr_err!("moderation_ns={moderation_ns} is above {MAX_NS}\n");
        return Err(EINVAL);
    }
    Ok(moderation_ns)
}

/// The moderation of a vCPU's kicks.
pub(crate) struct Moderation {
    /// The longest pause.
    ceiling_ns: u32,
    /// The number of signals that the vCPU has not taken yet: the batch.
    signals: Atomic<u32>,
    /// When the first signal of the batch came.
    first_ns: Atomic<u64>,
    /// When the vCPU is, or was, kicked for the batch.
    kick_ns: Atomic<u64>,
    /// When the pause ends, 0 if there is none.
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

    /// Counts a signal, and returns the time of its kick if that has to wait for the end of a pause. Any context but
    /// NMIs.
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

    /// Ends the batch, as the vCPU takes it. Only the thread that runs the vCPU may call this.
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
