// SPDX-License-Identifier: GPL-2.0

//! Polling for idle vCPUs, in the guest and in the host.
//!
//! A guest with `FEATURE_IDLE` polls its descriptor for `guest_poll_ns`, then makes the idle call, in which the host
//! polls for `host_poll_ns`, and then halts. The host chooses both windows by a
//! [`Policy`](pvirq_policy::poll_window::Policy) from the lengths of past idle periods. It measures those that end in
//! the idle call or in a halt. The guest counts those that end in its own window in its descriptor; a guest that does
//! not, or lies, gets a worse window.
//!
//! Polling stops when another task wants the CPU, and takes no more than the VM's
//! [`Budget`](pvirq_policy::budget::Budget). The host cannot limit polling in the guest, but the guest is billed for
//! that time as for any other. A guest whose interrupts all come within its window never leaves it, so the host learns
//! nothing from it. If it keeps other tasks waiting, it is preempted: then the host sets its window to 0, which the
//! guest reads while it polls.
//!
//! The scheduler's callbacks see each halt twice, with or without a window. So they only read the scheduler's clock,
//! and compute nothing that they do not use.
//!
//! The log of a vCPU's idle periods and its windows belong to one registration. The first idle call of the next one
//! starts them anew.
//!
//! While the guest makes idle calls, KVM's own polling in a halt [is switched off](crate::vm::halt_poll).
//!
//! # Concurrency
//!
//! Only the vCPU's thread uses a [`Poller`], and the scheduler's callbacks in that thread, which interrupt it only
//! where it gives up the CPU.

use kernel::{
    processor::cpu_relax,
    seq_file::SeqFile,
    sync::atomic::Atomic, //
};
use kernel_ext::{
    sched::task::{
        is_contended,
        local_clock_ns,
        run_delay_ns, //
    },
    sched::thread_flags,
    sync::read_once::ReadOnce, //
};
use pvirq_protocol::IdleEnd;

use crate::{
    stats::counter::{
        counters,
        Counter, //
    },
    vm::polling::{
        IdleLog,
        Polling,
        Windows, //
    }, //
};

/// A vCPU that has waited for a CPU for more than one part in `STOLEN_SHARE` of the time does not poll.
const STOLEN_SHARE: u64 = 4;

/// The polling of one vCPU.
pub(crate) struct Poller {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    /// The epoch of the registration that all of this belongs to: the last one in which the guest has made an idle call
    /// on the vCPU; 0 if there is none.
    epoch: Atomic<u32>,
    /// When the idle period began, 0 if the vCPU is not known to be idle.
    idle_since_ns: Atomic<u64>,
    log: IdleLog,
    /// Whether the task sleeps, and the task's run delay when it went to sleep.
    asleep: Atomic<bool>,
    sleep_delay_ns: Atomic<u64>,
    /// Whether the task is preempted.
    preempted: Atomic<bool>,
    /// The time of the last idle call, and the task's run delay then.
    last_call_ns: Atomic<u64>,
    call_delay_ns: Atomic<u64>,
    counters: Counters,
}

counters! {
    /// What only the thread that runs the vCPU counts.
    struct Counters of Counter {
        /// Idle calls.
        calls: "idle-calls",
        /// Idle calls that a post ended.
        posted: "idle-posted",
        /// Idle calls that another event for the vCPU ended.
        events: "idle-events",
        /// Idle calls that another task's demand for the CPU, or the budget, ended.
        contended: "idle-contended",
        /// The time for which the host has polled.
        polled_ns: "polled-ns",
    }
}

/// The events for which a vCPU polls.
pub(crate) trait PollEvents {
    /// Returns how many idle periods have ended in the guest's window; `None` if the vCPU has no descriptor any more.
    fn hits(&self) -> Option<u32>;
    /// Returns whether a vector is posted; `None` if the vCPU has no descriptor any more.
    fn posted(&self) -> Option<bool>;
    /// Returns whether KVM has an event pending for the vCPU.
    fn has_pending_event(&self) -> bool;
}

impl Poller {
    pub(crate) fn new(first: Windows) -> Self {
        Self {
            guest_ns: Atomic::new(first.guest_ns),
            host_ns: Atomic::new(first.host_ns),
            epoch: Atomic::new(0),
            idle_since_ns: Atomic::new(0),
            log: IdleLog {
                guest: Atomic::new(0),
                host: Atomic::new(0),
                hits: Atomic::new(0),
            },
            asleep: Atomic::new(false),
            sleep_delay_ns: Atomic::new(0),
            preempted: Atomic::new(false),
            last_call_ns: Atomic::new(0),
            call_delay_ns: Atomic::new(0),
            counters: Counters::new(),
        }
    }

    pub(crate) fn windows(&self) -> Windows {
        Windows {
            guest_ns: self.guest_ns.read_once(),
            host_ns: self.host_ns.read_once(),
        }
    }

    fn set_windows(&self, windows: Windows) -> Windows {
        self.guest_ns.write_once(windows.guest_ns);
        self.host_ns.write_once(windows.host_ns);
        windows
    }

    /// Returns the windows after an idle period of `idle_ns`.
    fn next(
        &self,
        polling: &Polling,
        windows: Windows,
        events: &impl PollEvents,
        idle_ns: u64,
    ) -> Windows {
        let before = self.log.hits.read_once();
        let hits = events.hits().unwrap_or(before);

        self.log.hits.write_once(hits);
        polling.next(&self.log, windows, hits.wrapping_sub(before), idle_ns)
    }

    /// Counts an idle call in the registration `epoch`, and returns whether it is the vCPU's first one there. That
    /// empties the log, and sets the windows to `first`.
    pub(crate) fn begin(&self, epoch: u32, first: Windows) -> bool {
        self.counters.calls.add(1);
        if self.epoch.read_once() == epoch {
            return false;
        }

        self.set_windows(first);
        self.idle_since_ns.write_once(0);
        self.log.guest.write_once(0);
        self.log.host.write_once(0);
        self.log.hits.write_once(0);
        self.asleep.write_once(false);
        self.preempted.write_once(false);
        self.epoch.write_once(epoch);
        true
    }

    /// Returns whether the guest has made an idle call on the vCPU in the registration `epoch`.
    #[inline]
    fn is_of(&self, epoch: u32) -> bool {
        self.epoch.read_once() == epoch
    }

    /// Polls on behalf of an idle vCPU, and returns the event that ended it; `None` if the registration has ended.
    /// Process context.
    pub(crate) fn poll(&self, polling: &Polling, events: &impl PollEvents) -> Option<IdleEnd> {
        let start = local_clock_ns();
        let windows = self.set_windows(polling.current(self.windows()));
        let stolen = self.is_stolen(start);
        let (end, polled) = if windows.host_ns == 0 {
            (Some(IdleEnd::Expired), 0)
        } else if stolen || is_contended() {
            (Some(IdleEnd::Contended), 0)
        } else {
            self.poll_within_budget(polling, start, windows.host_ns, events)
        };
        let idle_ns = u64::from(windows.guest_ns).saturating_add(polled);
        self.idle_since_ns.write_once(0);
        match end? {
            IdleEnd::Posted | IdleEnd::Event => {
                let hits = match end {
                    Some(IdleEnd::Posted) => &self.counters.posted,
                    _ => &self.counters.events,
                };
                hits.add(1);
                self.set_windows(self.next(polling, windows, events, idle_ns));
            }
            IdleEnd::Contended => {
                self.counters.contended.add(1);
                self.set_windows(Windows::NONE);
            }
            // The idle period goes on in a halt.
            IdleEnd::Expired => {
                let since = start.saturating_sub(windows.guest_ns.into());
                self.idle_since_ns.write_once(since);
            }
        }
        end
    }

    /// Returns whether this task has waited for a CPU for much of the time since the last idle call. This finds
    /// competing tasks that are not on the run queue just now.
    fn is_stolen(&self, now: u64) -> bool {
        let delay = run_delay_ns();
        let passed = now.saturating_sub(self.last_call_ns.read_once());
        let stolen = delay.saturating_sub(self.call_delay_ns.read_once());

        self.last_call_ns.write_once(now);
        self.call_delay_ns.write_once(delay);
        stolen.saturating_mul(STOLEN_SHARE) > passed
    }

    /// Polls from `start` on for `want_ns`, or as long as the VM's budget grants. Returns the end, and for how long it
    /// polled.
    fn poll_within_budget(
        &self,
        polling: &Polling,
        start: u64,
        want_ns: u32,
        events: &impl PollEvents,
    ) -> (Option<IdleEnd>, u64) {
        let granted = polling.budget.lock().take(start, want_ns);
        if granted == 0 {
            return (Some(IdleEnd::Contended), 0);
        }
        let end = Self::poll_until(start.saturating_add(granted.into()), events);
        // This may be longer than granted.
        let polled = local_clock_ns().saturating_sub(start);

        polling.budget.lock().settle(granted, polled);
        self.counters.polled_ns.add(polled);
        (end, polled)
    }

    /// Polls until `deadline`. Returns `None` if the vCPU has no descriptor any more.
    fn poll_until(deadline: u64, events: &impl PollEvents) -> Option<IdleEnd> {
        loop {
            if events.posted()? {
                return Some(IdleEnd::Posted);
            }
            if events.has_pending_event() || thread_flags::signal_pending() {
                return Some(IdleEnd::Event);
            }
            if is_contended() {
                return Some(IdleEnd::Contended);
            }
            if local_clock_ns() >= deadline {
                return Some(IdleEnd::Expired);
            }
            cpu_relax();
        }
    }

    /// Notes that the task goes to sleep, in the registration `epoch`. In the scheduler's callback.
    pub(crate) fn sleep(&self, epoch: u32) {
        if !self.is_of(epoch) {
            return;
        }
        self.asleep.write_once(true);
        self.sleep_delay_ns.write_once(run_delay_ns());
        // Without an idle call the idle period began with the guest's window.
        if self.idle_since_ns.read_once() == 0 {
            let polled = self.guest_ns.read_once().into();
            self.idle_since_ns
                .write_once(local_clock_ns().saturating_sub(polled));
        }
    }

    /// Notes that the task is preempted, in the registration `epoch`. Returns the windows meanwhile, if they change. In
    /// the scheduler's callback.
    pub(crate) fn preempt(&self, epoch: u32) -> Option<Windows> {
        // Before the first idle call the guest's window is 0, and the host's has to stay, or no idle call would be
        // made.
        if !self.is_of(epoch) {
            return None;
        }
        self.preempted.write_once(true);
        Some(Windows::NONE)
    }

    /// Notes that the task is back on a CPU, in the registration `epoch`. Returns the windows, if they change. In the
    /// scheduler's callback.
    pub(crate) fn wake(
        &self,
        polling: &Polling,
        events: &impl PollEvents,
        epoch: u32,
    ) -> Option<Windows> {
        if !self.is_of(epoch) {
            return None;
        }
        if self.preempted.read_once() {
            self.preempted.write_once(false);
            // The other task may have needed the CPU for a moment only.
            return Some(if is_contended() {
                self.set_windows(Windows::NONE)
            } else {
                self.windows()
            });
        }
        if !self.asleep.read_once() {
            return None;
        }
        self.asleep.write_once(false);

        let windows = self.windows();
        let next = if is_contended() {
            Windows::NONE
        } else {
            self.next(polling, windows, events, self.idle_ns())
        };
        self.idle_since_ns.write_once(0);
        (next != windows).then(|| self.set_windows(next))
    }

    /// Returns the length of the idle period that ended with the task's wake-up.
    fn idle_ns(&self) -> u64 {
        // The time that the woken task waited for a CPU does not count: a CPU that slept as well takes long to wake up,
        // and a short idle period would look long.
        let waited = run_delay_ns().saturating_sub(self.sleep_delay_ns.read_once());

        local_clock_ns()
            .saturating_sub(self.idle_since_ns.read_once())
            .saturating_sub(waited)
    }

    /// Adds the counters to a `/proc/PID/fdinfo` file.
    pub(crate) fn show(&self, m: &SeqFile) {
        self.counters.show(m);
    }
}
