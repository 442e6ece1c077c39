// SPDX-License-Identifier: GPL-2.0

//! Polling for idle vCPUs, in the guest and in the host.
//!
//! A guest that can (`FEATURE_IDLE`) polls its descriptor for `guest_poll_ns`, then makes the idle
//! call, in which the host polls for `host_poll_ns`, and then executes HLT. Both windows are the
//! host's to choose, by a [`Policy`] that sees how long each idle period was. The host sees that of
//! those that end in the idle call or in a halt. Those that end in the guest's window the guest counts
//! in its descriptor. If it does not, or lies, its window is not what it could be, which is its loss.
//!
//! Nobody polls while another task wants the CPU, and no longer than the VM's [`Budget`] allows. The
//! guest's window is on trust: a guest that polls for longer burns time that it is billed for as
//! for any other. A guest whose interrupts all come within its window never leaves it, and so says
//! nothing to the host. That it keeps others waiting shows when it is preempted: its window is 0
//! from then on, and it looks at that while it polls.
//!
//! Each halt is seen twice by the scheduler's callbacks, whether or not there is a window. So they read
//! the scheduler's clock, and find out nothing that they do not use.
//!
//! KVM's own polling in a halt would come on top, and sees no posts. So it is switched off in a VM
//! whose guest makes idle calls.
//!
//! # Concurrency
//!
//! A [`Poller`] is its vCPU's thread's, and the scheduler's callbacks in that thread: they interrupt
//! it only where it gives up the CPU. The lock of [`Polling`] is a leaf, for process context.

use kernel::{
    new_spinlock,
    prelude::*,
    processor::cpu_relax,
    seq_file::SeqFile,
    seq_print,
    sync::{
        atomic::Atomic,
        SpinLock, //
    }, //
};
use kernel_ext::{
    once::Once,
    sched::{
        is_contended,
        local_clock_ns,
        run_delay_ns, //
    },
    thread_flags, //
};
use pvirq_protocol::{
    ioctl::Poll,
    window::{
        Budget,
        HaltPoll,
        History,
        Policy,
        PolicyName, //
    },
    IdleEnd, //
};

use crate::counter::Counter;

/// If more than one part in so many of a vCPU's time is stolen, polling is not worth it.
const STOLEN_SHARE: u64 = 4;

/// Checks what the module's parameters say, and returns it.
pub(crate) fn parameters(guest_poll_ns: u32, host_poll_ns: u32, budget: u32) -> Result<Poll> {
    for (name, value, max) in [
        (c"guest_poll_ns", guest_poll_ns, Poll::MAX_NS),
        (c"host_poll_ns", host_poll_ns, Poll::MAX_NS),
        (c"poll_budget", budget, Budget::PERCENT_MAX),
    ] {
        if value > max {
            pr_err!("{name}={value} is above {max}\n");
            return Err(EINVAL);
        }
    }
    Ok(Poll {
        size: size_of::<Poll>() as u32,
        flags: 0,
        guest_poll_ns,
        host_poll_ns,
        budget,
        policy: PolicyName::Adaptive.number(),
    })
}

/// The polling of all vCPUs of a VM: the longest windows, and what decides about them.
#[pin_data]
pub(crate) struct Polling {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    policy: Atomic<u32>,
    #[pin]
    budget: SpinLock<Budget>,
}

impl Polling {
    pub(crate) fn new(poll: &Poll) -> impl PinInit<Self> + use<> {
        let Poll {
            guest_poll_ns,
            host_poll_ns,
            budget,
            policy,
            ..
        } = *poll;
        pin_init!(Self {
            guest_ns: Atomic::new(guest_poll_ns),
            host_ns: Atomic::new(host_poll_ns),
            policy: Atomic::new(policy),
            budget <- new_spinlock!(Budget::new(budget)),
        })
    }

    /// Changes it, for idle periods from now on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is something that is not known or not within its range.
    pub(crate) fn set(&self, poll: &Poll) -> Result {
        if !poll.is_valid() {
            return Err(EINVAL);
        }
        // Two callers at a time can leave some of each, all of it valid.
        self.guest_ns.write_once(poll.guest_poll_ns);
        self.host_ns.write_once(poll.host_poll_ns);
        self.policy.write_once(poll.policy);
        self.budget.lock().set_percent(poll.budget);
        Ok(())
    }

    pub(crate) fn get(&self) -> Poll {
        Poll {
            size: size_of::<Poll>() as u32,
            flags: 0,
            guest_poll_ns: self.guest_ns.read_once(),
            host_poll_ns: self.host_ns.read_once(),
            budget: self.budget.lock().percent(),
            policy: self.policy.read_once(),
        }
    }

    fn policy(&self) -> &'static dyn Policy {
        PolicyName::from_number(self.policy.read_once())
            .unwrap_or(PolicyName::Adaptive)
            .policy()
    }

    /// The windows after an idle period of `idle_ns`, and after as many `hits` as the guest has counted
    /// before it. Any context.
    fn next(&self, known: &Known, windows: Windows, hits: u32, idle_ns: u64) -> Windows {
        let policy = self.policy();
        let next = |known: &Atomic<u64>, hits, window_ns, idle_ns, ceiling_ns| {
            let mut history = History::from_word(known.read_once());
            history.add(hits, idle_ns, ceiling_ns);
            known.write_once(history.word());
            policy.next_after(&history, window_ns, idle_ns, ceiling_ns)
        };
        let Windows { guest_ns, host_ns } = windows;
        let in_host_ns = idle_ns.saturating_sub(guest_ns.into());
        let [guest_max, host_max] = [&self.guest_ns, &self.host_ns].map(Once::read_once);

        Windows {
            guest_ns: next(&known.guest, hits, guest_ns, idle_ns, guest_max),
            host_ns: next(&known.host, 0, host_ns, in_host_ns, host_max),
        }
    }

    /// The windows of an idle period that begins.
    fn current(&self, windows: Windows) -> Windows {
        let policy = self.policy();

        Windows {
            guest_ns: policy.current(windows.guest_ns, self.guest_ns.read_once()),
            host_ns: policy.current(windows.host_ns, self.host_ns.read_once()),
        }
    }

    /// The windows before anything is known: enough for the guest to make an idle call, by which the
    /// host learns that it knows of windows at all.
    pub(crate) fn first(&self) -> Windows {
        let longest = self.host_ns.read_once().max(self.guest_ns.read_once());

        Windows {
            guest_ns: 0,
            host_ns: HaltPoll::START_NS.min(longest),
        }
    }
}

/// How long a vCPU is to poll, in ns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) guest_ns: u32,
    pub(crate) host_ns: u32,
}

impl Windows {
    const NONE: Self = Self {
        guest_ns: 0,
        host_ns: 0,
    };
}

/// What is known of a vCPU's idle periods.
struct Known {
    /// As far as windows in the guest would have covered them; a [`History`].
    guest: Atomic<u64>,
    /// As far as windows in the host would have covered what was left.
    host: Atomic<u64>,
    /// As many as the guest had [counted](pvirq_protocol::Descriptor::idle_hits) by then.
    hits: Atomic<u32>,
}

/// The polling of one vCPU.
pub(crate) struct Poller {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    /// Whether the guest has made an idle call.
    used: Atomic<bool>,
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

/// What there is to count. Only the thread that runs the vCPU does.
struct Counters {
    /// Idle calls.
    calls: Counter,
    /// Those that ended because of a post.
    posted: Counter,
    /// Those that ended because of something else for the vCPU.
    events: Counter,
    /// Those that ended because somebody else wanted the CPU, or for want of budget.
    contended: Counter,
    /// The time that the host has polled.
    polled_ns: Counter,
}

/// Where a vCPU that polls in the host looks.
pub(crate) trait Looks {
    /// How many idle periods the guest has polled through; nothing if there is no descriptor any more.
    fn hits(&self) -> Option<u32>;
    /// Whether something is posted; nothing if there is no descriptor any more.
    fn posted(&self) -> Option<bool>;
    /// Whether KVM has something for the vCPU.
    fn wanted(&self) -> bool;
}

impl Poller {
    pub(crate) fn new(first: Windows) -> Self {
        Self {
            guest_ns: Atomic::new(first.guest_ns),
            host_ns: Atomic::new(first.host_ns),
            used: Atomic::new(false),
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
            counters: Counters {
                calls: Counter::new(),
                posted: Counter::new(),
                events: Counter::new(),
                contended: Counter::new(),
                polled_ns: Counter::new(),
            },
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
        looks: &impl Looks,
        idle_ns: u64,
    ) -> Windows {
        let before = self.known.hits.read_once();
        let hits = looks.hits().unwrap_or(before);

        self.known.hits.write_once(hits);
        polling.next(&self.known, windows, hits.wrapping_sub(before), idle_ns)
    }

    /// Notes an idle call; returns whether it is the first.
    pub(crate) fn begin(&self) -> bool {
        self.counters.calls.add(1);
        !self.used.read_once() && {
            self.used.write_once(true);
            true
        }
    }

    /// Polls on behalf of an idle vCPU, and returns what has ended it. Process context.
    pub(crate) fn poll(&self, polling: &Polling, looks: &impl Looks) -> IdleEnd {
        let start = local_clock_ns();
        let windows = self.set_windows(polling.current(self.windows()));
        let stolen = self.is_stolen(start);
        let (end, polled) = if windows.host_ns == 0 {
            (IdleEnd::Expired, 0)
        } else if stolen || is_contended() {
            (IdleEnd::Contended, 0)
        } else {
            self.poll_within_budget(polling, start, windows.host_ns, looks)
        };
        let idle_ns = u64::from(windows.guest_ns).saturating_add(polled);
        self.since_ns.write_once(0);
        match end {
            IdleEnd::Posted | IdleEnd::Event => {
                let hits = match end {
                    IdleEnd::Posted => &self.counters.posted,
                    _ => &self.counters.events,
                };
                hits.add(1);
                self.set_windows(self.next(polling, windows, looks, idle_ns));
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
        looks: &impl Looks,
    ) -> (IdleEnd, u64) {
        let granted = polling.budget.lock().take(start, want_ns);
        if granted == 0 {
            return (IdleEnd::Contended, 0);
        }
        let end = Self::poll_until(start.saturating_add(granted.into()), looks);
        // It does not end on the dot.
        let polled = local_clock_ns().saturating_sub(start);

        polling.budget.lock().settle(granted, polled);
        self.counters.polled_ns.add(polled);
        (end, polled)
    }

    fn poll_until(deadline: u64, looks: &impl Looks) -> IdleEnd {
        loop {
            match looks.posted() {
                Some(false) => {}
                Some(true) => return IdleEnd::Posted,
                None => return IdleEnd::Event,
            }
            if looks.wanted() || thread_flags::signal_pending() {
                return IdleEnd::Event;
            }
            if is_contended() {
                return IdleEnd::Contended;
            }
            if local_clock_ns() >= deadline {
                return IdleEnd::Expired;
            }
            cpu_relax();
        }
    }

    /// The task goes to sleep. In the scheduler.
    pub(crate) fn sleep(&self) {
        if !self.used.read_once() {
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

    /// Another task has the CPU now; returns the windows meanwhile, if they are new. In the scheduler.
    pub(crate) fn preempt(&self) -> Option<Windows> {
        // Before the first idle call there is no window in the guest, and without the one in the host
        // there would be no first idle call.
        if !self.used.read_once() {
            return None;
        }
        self.preempted.write_once(true);
        Some(Windows::NONE)
    }

    /// The task is back; returns the windows if there are new ones. In the scheduler.
    pub(crate) fn wake(&self, polling: &Polling, looks: &impl Looks) -> Option<Windows> {
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
            self.next(polling, windows, looks, self.idle_ns())
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
        let counters = &self.counters;

        for (name, counter) in [
            (c"idle-calls", &counters.calls),
            (c"idle-posted", &counters.posted),
            (c"idle-events", &counters.events),
            (c"idle-contended", &counters.contended),
            (c"polled-ns", &counters.polled_ns),
        ] {
            seq_print!(m, "pvirq-{name}:\t{}\n", counter.get());
        }
    }
}
