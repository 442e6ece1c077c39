// SPDX-License-Identifier: GPL-2.0

//! vCPUs and their run loop.
//!
//! `KVM_RUN` on our file makes KVM run the vCPU, again and again, until an exit that the VMM must handle. Before each
//! entry the run loop injects the posted vectors. Senders read the vCPU's state in its descriptor:
//!
//! | state       | from                                         | to                         |
//! |-------------|----------------------------------------------|----------------------------|
//! | `Outside`   | the return to the VMM for I/O                | the next `KVM_RUN`         |
//! | `Running`   | `KVM_RUN`, and each other return to the VMM  | another state begins       |
//! | `Preempted` | another task takes the CPU                   | the task has a CPU again   |
//! | `Blocked`   | the task sleeps, in a halt for example       | the task has a CPU again   |
//! | `Polling`   | the guest's idle call                        | the return to the guest    |
//!
//! A VMM may save a vCPU, unless KVM completes its I/O at the next entry. The saved memory continues on another host,
//! or later, so a vCPU that may be saved must not promise that it will poll: it is `Running`, and what was pending has
//! been injected.
//!
//! A preempted vCPU stays `Running` if spinning vCPUs yield to it only for an interrupt that KVM sees, see
//! [`VcpuFile::yield_needs_interrupt`].
//!
//! `Preempted` and `Blocked` begin and end in the scheduler's callbacks, which cannot inject. If the task is back and
//! something is pending, KVM may be about to enter the guest. So the callback sets `TIF_NOTIFY_SIGNAL`:
//! `signal_pending()` is true, but no signal is delivered. KVM checks for signals right before it enters, and `KVM_RUN`
//! returns `EINTR` to the run loop. The VMM sees `EINTR` only if there is a real signal or task work, or if it has set
//! `immediate_exit`.
//!
//! # Concurrency
//!
//! KVM runs a vCPU in one thread at a time, and makes others wait. [`Vcpu::turn`] does the same, because the
//! descriptor's state belongs to the running thread. A thread takes it only if the vCPU is tracked: the guest has used
//! its interface on the vCPU, or something outside the guest posts to it. If the VMM has another thread wait in KVM
//! from before that, its guest may see a wrong state. [`Vcpu::run`] is process context; [`PreemptNotified`] is called
//! by the scheduler. Both find the descriptor under RCU. Threads that save or replace the vCPU's state ([`state`]) take
//! the turn as well. The lock order is in [`registration`](crate::posting::registration).
//!
//! [`PreemptNotified`]: kernel_ext::sched::preempt::PreemptNotified

use kernel::{
    new_mutex,
    pr_warn_once,
    prelude::*,
    static_lock_class,
    sync::{
        rcu,
        Arc,
        Mutex, //
    }, //
};
use kernel_ext::sync::killable::KillableMutex;
use kvm_glue::VcpuFile;
use pvirq_protocol::{
    Descriptor,
    HostStatistics, //
};

use crate::{
    arch::{
        Ports,
        RunArea, //
    },
    stats::counter::{
        counters,
        Counter, //
    },
    vm::{
        kick_target::KickTarget,
        Vm, //
    }, //
};

mod idle;
mod poller;
mod registers;
mod run;
mod state;

use poller::Poller;
use registers::Registers;

/// A vCPU.
#[pin_data]
pub(crate) struct Vcpu {
    /// KVM's file.
    pub(crate) real: VcpuFile,
    pub(crate) target: Arc<KickTarget>,
    pub(crate) vm: Arc<Vm>,
    /// The mutex of the thread that runs the vCPU.
    #[pin]
    turn: KillableMutex,
    pub(crate) poller: Poller,
    ports: Ports,
    /// `None` if it could not be pinned.
    area: Option<RunArea>,
    #[pin]
    registers: Mutex<Registers>,
    pub(crate) counters: Counters,
}

counters! {
    /// Counters of a vCPU, to which only the thread that runs it adds.
    struct Counters of Counter {
        /// Drains that found a pending vector.
        drains: "drains",
        /// Vectors that were drained and injected.
        injected: "injected",
        /// Reserved vectors that were drained and dropped.
        dropped_reserved: "dropped-reserved",
        /// Kicks by the scheduler's callback, because of pending bits.
        forced_exits: "forced-exits",
    }
}

impl Counters {
    /// Returns the counters that senders may read.
    pub(crate) fn get(&self) -> HostStatistics {
        HostStatistics {
            injected: self.injected.get(),
            dropped_reserved: self.dropped_reserved.get(),
            forced_exits: self.forced_exits.get(),
            drains: self.drains.get(),
        }
    }
}

impl Vcpu {
    /// Creates the vCPU for KVM's file `real`, which belongs to the current process.
    pub(crate) fn new(real: VcpuFile, target: Arc<KickTarget>, vm: Arc<Vm>) -> impl PinInit<Self> {
        let area = RunArea::find(real.file()).inspect_err(|err| {
            pr_warn_once!(
                "cannot pin the kvm_run of a vCPU, which has no guest interface: error {}\n",
                err.to_errno()
            );
        });

        target.kicker.attach(&real);
        pin_init!(Self {
            real,
            target,
            turn <- KillableMutex::new(c"pvirq_vcpu_turn", static_lock_class!()),
            poller: Poller::new(vm.polling.first()),
            ports: vm.host.ports,
            area: area.ok(),
            registers <- new_mutex!(Registers::new(), "pvirq_vcpu_registers"),
            counters: Counters::new(),
            vm,
        })
    }

    /// Returns how many times `KVM_RUN` has been called.
    pub(crate) fn runs(&self) -> u64 {
        self.target.runs.get()
    }

    /// Calls `f` with the vCPU's descriptor, under RCU, if the guest has registered one.
    #[inline]
    fn with_descriptor<T>(&self, f: impl FnOnce(&Descriptor) -> T) -> Option<T> {
        self.with_registration(|_, descriptor| f(descriptor))
    }

    /// Calls `f` with the number of the guest's registration and the vCPU's descriptor, under RCU, if there is one.
    #[inline]
    fn with_registration<T>(&self, f: impl FnOnce(u32, &Descriptor) -> T) -> Option<T> {
        let guard = rcu::read_lock();
        let descriptors = self.vm.descriptors.get(&guard)?;

        Some(f(
            descriptors.epoch().get(),
            descriptors.get(self.target.id)?,
        ))
    }
}
