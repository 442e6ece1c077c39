// SPDX-License-Identifier: GPL-2.0

//! Polling for idle vCPUs, in the guest and in the host.
//!
//! A guest that can (`FEATURE_IDLE`) polls its descriptor for `guest_poll_ns`, then makes the idle
//! call, in which the host polls for `host_poll_ns`, and then executes HLT. Both windows are the
//! host's to choose, by a [`Policy`] that sees how long each idle period was. The host sees that of
//! those that end in the idle call or in a halt; those that end in the guest's window it is not told
//! of, and they are no reason to change anything.
//!
//! Nobody polls while another task wants the CPU, and no longer than the VM's [`Budget`] allows. The
//! guest's window is on trust: a guest that polls for longer burns time that it is billed for as
//! for any other.
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
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLock, //
    }, //
};
use kernel_ext::{
    sched::{
        is_contended,
        monotonic_ns,
        run_delay_ns, //
    },
    thread_flags, //
};
use pvirq_protocol::{
    ioctl::Poll,
    window::{
        Budget,
        HaltPoll,
        Policy,
        PolicyName, //
    },
    IdleEnd, //
};

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
        policy: PolicyName::HaltPoll.number(),
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
        self.guest_ns.store(poll.guest_poll_ns, Relaxed);
        self.host_ns.store(poll.host_poll_ns, Relaxed);
        self.policy.store(poll.policy, Relaxed);
        self.budget.lock().set_percent(poll.budget);
        Ok(())
    }

    pub(crate) fn get(&self) -> Poll {
        Poll {
            size: size_of::<Poll>() as u32,
            flags: 0,
            guest_poll_ns: self.guest_ns.load(Relaxed),
            host_poll_ns: self.host_ns.load(Relaxed),
            budget: self.budget.lock().percent(),
            policy: self.policy.load(Relaxed),
        }
    }

    fn policy(&self) -> &'static dyn Policy {
        PolicyName::from_number(self.policy.load(Relaxed))
            .unwrap_or(PolicyName::HaltPoll)
            .policy()
    }

    /// The windows after an idle period of `idle_ns`. Any context.
    fn next(&self, windows: Windows, idle_ns: u64) -> Windows {
        let policy = self.policy();
        let in_host_ns = idle_ns.saturating_sub(windows.guest_ns.into());

        Windows {
            guest_ns: policy.next(windows.guest_ns, idle_ns, self.guest_ns.load(Relaxed)),
            host_ns: policy.next(windows.host_ns, in_host_ns, self.host_ns.load(Relaxed)),
        }
    }

    /// The windows of an idle period that begins.
    fn current(&self, windows: Windows) -> Windows {
        let policy = self.policy();

        Windows {
            guest_ns: policy.current(windows.guest_ns, self.guest_ns.load(Relaxed)),
            host_ns: policy.current(windows.host_ns, self.host_ns.load(Relaxed)),
        }
    }

    /// The windows before anything is known: enough for the guest to make an idle call.
    pub(crate) fn first(&self) -> Windows {
        Windows {
            guest_ns: 0,
            host_ns: HaltPoll::START_NS.min(self.host_ns.load(Relaxed)),
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

/// The polling of one vCPU.
pub(crate) struct Poller {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    /// Whether the guest has made an idle call.
    used: Atomic<bool>,
    /// When the idle period began, 0 if the vCPU is not known to be idle.
    since_ns: Atomic<u64>,
    /// Whether the task sleeps.
    asleep: Atomic<bool>,
    /// When the last idle call was, and for how long the task had waited for a CPU by then.
    looked: Atomic<u64>,
    waited: Atomic<u64>,
    counters: Counters,
}

/// What there is to count. Only the thread that runs the vCPU does.
struct Counters {
    /// Idle calls.
    calls: Atomic<u64>,
    /// Those that ended because of a post.
    posted: Atomic<u64>,
    /// Those that ended because of something else for the vCPU.
    events: Atomic<u64>,
    /// Those that ended because somebody else wanted the CPU, or for want of budget.
    contended: Atomic<u64>,
    /// The time that the host has polled.
    polled_ns: Atomic<u64>,
}

/// What a vCPU that polls in the host looks at.
pub(crate) trait Looks {
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
            asleep: Atomic::new(false),
            looked: Atomic::new(0),
            waited: Atomic::new(0),
            counters: Counters {
                calls: Atomic::new(0),
                posted: Atomic::new(0),
                events: Atomic::new(0),
                contended: Atomic::new(0),
                polled_ns: Atomic::new(0),
            },
        }
    }

    pub(crate) fn windows(&self) -> Windows {
        Windows {
            guest_ns: self.guest_ns.load(Relaxed),
            host_ns: self.host_ns.load(Relaxed),
        }
    }

    fn set_windows(&self, windows: Windows) -> Windows {
        self.guest_ns.store(windows.guest_ns, Relaxed);
        self.host_ns.store(windows.host_ns, Relaxed);
        windows
    }

    /// Notes an idle call; returns whether it is the first.
    pub(crate) fn begin(&self) -> bool {
        self.counters.calls.fetch_add(1, Relaxed);
        !self.used.load(Relaxed) && {
            self.used.store(true, Relaxed);
            true
        }
    }

    /// Polls on behalf of an idle vCPU, and returns what has ended it. Process context.
    pub(crate) fn poll(&self, polling: &Polling, looks: &impl Looks) -> IdleEnd {
        let start = monotonic_ns();
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
        self.since_ns.store(0, Relaxed);
        match end {
            IdleEnd::Posted | IdleEnd::Event => {
                let hits = match end {
                    IdleEnd::Posted => &self.counters.posted,
                    _ => &self.counters.events,
                };
                hits.fetch_add(1, Relaxed);
                self.set_windows(polling.next(windows, idle_ns));
            }
            IdleEnd::Contended => {
                self.counters.contended.fetch_add(1, Relaxed);
                self.set_windows(Windows::NONE);
            }
            // The period goes on in a halt.
            IdleEnd::Expired => {
                let since = start.saturating_sub(windows.guest_ns.into());
                self.since_ns.store(since, Relaxed);
            }
        }
        end
    }

    /// Whether much of the time since the last idle call has gone to others while this task wanted to
    /// run: tasks that come and go, of which none may be there just now.
    fn is_stolen(&self, now: u64) -> bool {
        let waited = run_delay_ns();
        let passed = now.saturating_sub(self.looked.load(Relaxed));
        let stolen = waited.saturating_sub(self.waited.load(Relaxed));

        self.looked.store(now, Relaxed);
        self.waited.store(waited, Relaxed);
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
        let polled = monotonic_ns().saturating_sub(start);

        polling.budget.lock().settle(granted, polled);
        self.counters.polled_ns.fetch_add(polled, Relaxed);
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
            if monotonic_ns() >= deadline {
                return IdleEnd::Expired;
            }
            cpu_relax();
        }
    }

    /// The task goes to sleep. In the scheduler.
    pub(crate) fn sleep(&self) {
        if !self.used.load(Relaxed) {
            return;
        }
        self.asleep.store(true, Relaxed);
        if self.since_ns.load(Relaxed) == 0 {
            self.since_ns.store(monotonic_ns(), Relaxed);
        }
    }

    /// The task is back; returns the windows if there are new ones. In the scheduler.
    pub(crate) fn wake(&self, polling: &Polling) -> Option<Windows> {
        if !self.asleep.load(Relaxed) {
            return None;
        }
        self.asleep.store(false, Relaxed);
        let idle_ns = monotonic_ns().saturating_sub(self.since_ns.load(Relaxed));
        self.since_ns.store(0, Relaxed);

        let windows = self.windows();
        let next = if is_contended() {
            Windows::NONE
        } else {
            polling.next(windows, idle_ns)
        };
        (next != windows).then(|| self.set_windows(next))
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
            seq_print!(m, "pvirq-{name}:\t{}\n", counter.load(Relaxed));
        }
    }
}
