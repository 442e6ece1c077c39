// SPDX-License-Identifier: GPL-2.0

//! How the idle vCPUs of a VM poll: the longest windows, the policy, and the budget. See
//! [`poller`](crate::vcpu::poller).
//!
//! # Concurrency
//!
//! The budget's lock is a leaf, for process context. The rest is single words, which the scheduler's callbacks read.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::Atomic,
        SpinLock, //
    }, //
};
use kernel_ext::sync::read_once::ReadOnce;
use pvirq_policy::{
    budget::Budget,
    poll_window::{
        policy,
        HaltPoll,
        History,
        Policy, //
    }, //
};
use pvirq_protocol::ioctl::{
    PolicyName,
    Poll, //
};

/// Checks the module's parameters, and returns them.
pub(crate) fn parameters(guest_poll_ns: u32, host_poll_ns: u32, budget: u32) -> Result<Poll> {
    for (name, value, max) in [
        (c"guest_poll_ns", guest_poll_ns, Poll::MAX_NS),
        (c"host_poll_ns", host_poll_ns, Poll::MAX_NS),
        (c"poll_budget", budget, Poll::BUDGET_MAX),
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

/// The polling of all vCPUs of a VM.
#[pin_data]
pub(crate) struct Polling {
    guest_ns: Atomic<u32>,
    host_ns: Atomic<u32>,
    policy: Atomic<u32>,
    #[pin]
    pub(crate) budget: SpinLock<Budget>,
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
            budget <- new_spinlock!(Budget::new(budget), "pvirq_vm_budget"),
        })
    }

    /// Changes the parameters, for idle periods from now on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if a parameter is unknown or out of range.
    pub(crate) fn set(&self, poll: &Poll) -> Result {
        if !poll.is_valid() {
            return Err(EINVAL);
        }
        // Two concurrent callers can leave a mix of their parameters, each of which is valid.
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

    /// Returns whether a vCPU may poll at all.
    pub(crate) fn has_windows(&self) -> bool {
        self.guest_ns.read_once() != 0 || self.host_ns.read_once() != 0
    }

    fn policy(&self) -> &'static dyn Policy {
        policy(PolicyName::from_number(self.policy.read_once()).unwrap_or(PolicyName::Adaptive))
    }

    /// Returns the windows after an idle period of `idle_ns`, before which the guest has counted `hits`. Any context.
    pub(crate) fn next(&self, log: &IdleLog, windows: Windows, hits: u32, idle_ns: u64) -> Windows {
        let policy = self.policy();
        let next = |word: &Atomic<u64>, hits, window_ns, idle_ns, ceiling_ns| {
            let mut history = History::from_word(word.read_once());
            history.add(hits, idle_ns, ceiling_ns);
            word.write_once(history.word());
            policy.next_after(&history, window_ns, idle_ns, ceiling_ns)
        };
        let Windows { guest_ns, host_ns } = windows;
        let in_host_ns = idle_ns.saturating_sub(guest_ns.into());
        let [guest_max, host_max] = [&self.guest_ns, &self.host_ns].map(ReadOnce::read_once);

        Windows {
            guest_ns: next(&log.guest, hits, guest_ns, idle_ns, guest_max),
            host_ns: next(&log.host, 0, host_ns, in_host_ns, host_max),
        }
    }

    /// Returns the windows for an idle period that begins.
    pub(crate) fn current(&self, windows: Windows) -> Windows {
        let policy = self.policy();

        Windows {
            guest_ns: policy.current(windows.guest_ns, self.guest_ns.read_once()),
            host_ns: policy.current(windows.host_ns, self.host_ns.read_once()),
        }
    }

    /// Returns the windows before the first idle period: enough for the guest to make an idle call, which shows the
    /// host that the guest uses windows at all.
    pub(crate) fn first(&self) -> Windows {
        let longest = self.host_ns.read_once().max(self.guest_ns.read_once());

        Windows {
            guest_ns: 0,
            host_ns: HaltPoll::START_NS.min(longest),
        }
    }
}

/// How long a vCPU polls, in ns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) guest_ns: u32,
    pub(crate) host_ns: u32,
}

impl Windows {
    pub(crate) const NONE: Self = Self {
        guest_ns: 0,
        host_ns: 0,
    };
}

/// A summary of a vCPU's past idle periods.
pub(crate) struct IdleLog {
    /// Whether windows in the guest would have covered them: a [`History`].
    pub(crate) guest: Atomic<u64>,
    /// Whether windows in the host would have covered the rest of each: a [`History`].
    pub(crate) host: Atomic<u64>,
    /// The last value of the guest's [count](pvirq_protocol::Descriptor::idle_hits) of hits.
    pub(crate) hits: Atomic<u32>,
}
