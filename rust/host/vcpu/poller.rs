// SPDX-License-Identifier: GPL-2.0

//! Polling for idle vCPUs, in the guest and in the host.
//!
//! A guest that can (`FEATURE_IDLE`) polls its descriptor for `guest_poll_ns`, then makes the idle
//! call, in which the host polls for `host_poll_ns`, and then executes HLT. Both windows are the
//! host's to choose, by a [`Policy`](pvirq_policy::poll_window::Policy) that sees how long each idle period was. The host sees that of
//! those that end in the idle call or in a halt. Those that end in the guest's window the guest counts
//! in its descriptor. If it does not, or lies, its window is not what it could be, which is its loss.
//!
//! Nobody polls while another task wants the CPU, and no longer than the VM's [`Budget`](pvirq_policy::budget::Budget) allows. The
//! guest's window is on trust: a guest that polls for longer burns time that it is billed for as
//! for any other. A guest whose interrupts all come within its window never leaves it, and so says
//! nothing to the host. That it keeps others waiting shows when it is preempted: its window is 0
//! from then on, and it looks at that while it polls.
//!
//! Each halt is seen twice by the scheduler's callbacks, whether or not there is a window. So they read
//! the scheduler's clock, and find out nothing that they do not use.
//!
//! What is known of a vCPU, and its windows, are of one registration: they begin anew with the first idle call of the
//! next one.
//!
//! KVM's own polling in a halt would come on top, and sees no posts. So [it is switched off](crate::vm::halt_poll) while the
//! guest makes idle calls.
//!
//! # Concurrency
//!
//! A [`Poller`] is its vCPU's thread's, and the scheduler's callbacks in that thread: they interrupt
//! it only where it gives up the CPU.

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
    sched::thread_flags, //
    sync::read_once::ReadOnce,
};
use pvirq_protocol::IdleEnd;

use crate::{
    stats::counter::{
        counters,
        Counter, //
    },
    vm::polling::{
        Known,
        Polling,
        Windows, //
    }, //
};

/// If more than one part in so many of a vCPU's time is stolen, polling is not worth it.
const STOLEN_SHARE: u64 = 4;

/// The polling of one vCPU.
pub(crate) struct Poller {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    /// The registration in which the guest has made an idle call on the vCPU, and that all of this is of; 0 if there
    /// is none.
    epoch: Atomic<u32>,
    /// When the idle period began, 0 if the vCPU is not known to be idle.
    since_ns: Atomic<u64>,
    known: Known,
    /// Whether the task sleeps, and for how long it had waited for a CPU before.
    asleep: Atomic<bool>,
    waited_before: Atomic<u64>,
    /// Whether it has been preempted.
    preempted: Atomic<bool>,
    /// When the last idle call was, and for how long the task had waited for a CPU by then.
    looked: Atomic<u64>,
    waited: Atomic<u64>,
    counters: Counters,
}

counters! {
    /// What only the thread that runs the vCPU counts.
    struct Counters of Counter {
        /// Idle calls.
        calls: "idle-calls",
        /// Those that ended because of a post.
        posted: "idle-posted",
        /// Those that ended because of another event for the vCPU.
        events: "idle-events",
        /// Those that ended because another task wanted the CPU, or for want of budget.
        contended: "idle-contended",
        /// The time that the host has polled.
        polled_ns: "polled-ns",
    }
}

/// What ends the polling for a vCPU.
pub(crate) trait PollEvents {
    /// How many idle periods the guest has polled through; nothing if there is no descriptor any more.
    fn hits(&self) -> Option<u32>;
    /// Whether something is posted; nothing if there is no descriptor any more.
    fn posted(&self) -> Option<bool>;
    /// Whether KVM has something for the vCPU.
    fn has_pending_event(&self) -> bool;
}

impl Poller {
    pub(crate) fn new(first: Windows) -> Self {
        Self {
            guest_ns: Atomic::new(first.guest_ns),
            host_ns: Atomic::new(first.host_ns),
            epoch: Atomic::new(0),
            since_ns: Atomic::new(0),
            known: Known {
                guest: Atomic::new(0),
                host: Atomic::new(0),
                hits: Atomic::new(0),
            },
            asleep: Atomic::new(false),
            waited_before: Atomic::new(0),
            preempted: Atomic::new(false),
            looked: Atomic::new(0),
            waited: Atomic::new(0),
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

    /// The windows after an idle period of `idle_ns`.
    fn next(
        &self,
        polling: &Polling,
        windows: Windows,
        events: &impl PollEvents,
        idle_ns: u64,
    ) -> Windows {
        let before = self.known.hits.read_once();
        let hits = events.hits().unwrap_or(before);

        self.known.hits.write_once(hits);
        polling.next(&self.known, windows, hits.wrapping_sub(before), idle_ns)
    }

    /// Notes an idle call in the registration `epoch`; returns whether it is the vCPU's first one there. Then nothing is
    /// known any more, and the windows are `first`.
    pub(crate) fn begin(&self, epoch: u32, first: Windows) -> bool {
        self.counters.calls.add(1);
        if self.epoch.read_once() == epoch {
            return false;
        }

        self.set_windows(first);
        self.since_ns.write_once(0);
        self.known.guest.write_once(0);
        self.known.host.write_once(0);
        self.known.hits.write_once(0);
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

    /// Polls on behalf of an idle vCPU, and returns what has ended it: nothing if the registration has ended. Process
    /// context.
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
        self.since_ns.write_once(0);
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
            // The period goes on in a halt.
            IdleEnd::Expired => {
                let since = start.saturating_sub(windows.guest_ns.into());
                self.since_ns.write_once(since);
            }
        }
        end
    }

    /// Whether much of the time since the last idle call has gone to others while this task wanted to
    /// run: tasks that come and go, of which none may be there just now.
    fn is_stolen(&self, now: u64) -> bool {
        let waited = run_delay_ns();
        let passed = now.saturating_sub(self.looked.read_once());
        let stolen = waited.saturating_sub(self.waited.read_once());

        self.looked.write_once(now);
        self.waited.write_once(waited);
        stolen.saturating_mul(STOLEN_SHARE) > passed
    }

    /// Polls from `start` on for `want_ns`, or as long as the VM may, and returns for how long it was.
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
        // It does not end on the dot.
        let polled = local_clock_ns().saturating_sub(start);

        polling.budget.lock().settle(granted, polled);
        self.counters.polled_ns.add(polled);
        (end, polled)
    }

    /// Returns nothing if there is no descriptor any more.
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

    /// The task goes to sleep, in the registration `epoch`. In the scheduler.
    pub(crate) fn sleep(&self, epoch: u32) {
        if !self.is_of(epoch) {
            return;
        }
        self.asleep.write_once(true);
        self.waited_before.write_once(run_delay_ns());
        // If there was no idle call, there was the guest's window.
        if self.since_ns.read_once() == 0 {
            let polled = self.guest_ns.read_once().into();
            self.since_ns
                .write_once(local_clock_ns().saturating_sub(polled));
        }
    }

    /// Another task has the CPU now; returns the windows meanwhile, if they are new. In the scheduler, in the
    /// registration `epoch`.
    pub(crate) fn preempt(&self, epoch: u32) -> Option<Windows> {
        // Before the first idle call there is no window in the guest, and without the one in the host
        // there would be no first idle call.
        if !self.is_of(epoch) {
            return None;
        }
        self.preempted.write_once(true);
        Some(Windows::NONE)
    }

    /// The task is back; returns the windows if there are new ones. In the scheduler, in the registration `epoch`.
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
            // Whoever has taken the CPU may have wanted it for a moment only.
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
        self.since_ns.write_once(0);
        (next != windows).then(|| self.set_windows(next))
    }

    /// How long the idle period was that has ended by the task's coming back from its sleep.
    fn idle_ns(&self) -> u64 {
        // It had something to do from when it waited for a CPU. If that one slept as well, it takes a while,
        // and a short idle period would look like a long one.
        let waited = run_delay_ns().saturating_sub(self.waited_before.read_once());

        local_clock_ns()
            .saturating_sub(self.since_ns.read_once())
            .saturating_sub(waited)
    }

    /// Adds what has been counted to a `/proc/PID/fdinfo` file.
    pub(crate) fn show(&self, m: &SeqFile) {
        self.counters.show(m);
    }
}
