// SPDX-License-Identifier: GPL-2.0

//! vCPUs and their run loop.
//!
//! `KVM_RUN` on our file makes KVM run the vCPU, again and again, until there is an exit that concerns the VMM. Before
//! each entry, what has been posted is injected. Meanwhile senders learn from the vCPU's descriptor where it is:
//!
//! | state       | from                                   | to                                       |
//! |-------------|----------------------------------------|------------------------------------------|
//! | `Outside`   | the return to the VMM for I/O          | the next `KVM_RUN`                       |
//! | `Running`   | `KVM_RUN`, and each other return       | one of the other states begins           |
//! | `Preempted` | another task takes the CPU             | this one has it back                     |
//! | `Blocked`   | the task sleeps, in a halt for example | it is awake and has a CPU                |
//! | `Polling`   | the guest's idle call                  | the return to the guest                  |
//!
//! A VMM may save a vCPU that is in no I/O which KVM completes when it is entered, and then what the guest's memory
//! holds is somewhere else. So the vCPU does not promise anything then: it is `Running`, and what was pending has been
//! injected.
//!
//! A vCPU that is preempted in its guest's user mode on a host with APICv stays `Running`, see
//! [`VcpuFile::yield_needs_interrupt`].
//!
//! The scheduler says when `Preempted` and `Blocked` begin and end. If the task comes back and something is pending,
//! KVM may be about to enter the guest, and the scheduler's context is none to inject in. So the task gets a signal
//! that is none (`TIF_NOTIFY_SIGNAL`): KVM checks for signals last thing before it enters, and `KVM_RUN` returns
//! `EINTR` to us. The VMM sees that only if there is a real signal, or a task work, or it has asked for it.
//!
//! # Concurrency
//!
//! KVM runs a vCPU in one thread at a time, and keeps others waiting. So do we, in [`Vcpu::turn`], because the
//! descriptor's state belongs to the thread that runs. It is taken only once the guest has used its interface on the
//! vCPU, or something is bound to it: a VMM that has another thread wait in KVM from before that gets a state that is
//! wrong for its own guest. All of [`Vcpu::run`] is process context;
//! [`PreemptNotified`](kernel_ext::sched::preempt::PreemptNotified) is the scheduler's. Both find the descriptors under
//! RCU. Threads that save or replace the vCPU's state ([`state`]) take its turn as well. The order of locks is in
//! [`registration`](crate::posting::registration).

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
    /// Held by the thread that runs the vCPU.
    #[pin]
    turn: KillableMutex,
    pub(crate) poller: Poller,
    ports: Ports,
    /// Nothing if it could not be found.
    area: Option<RunArea>,
    #[pin]
    registers: Mutex<Registers>,
    pub(crate) counters: Counters,
}

counters! {
    /// What only the thread that runs the vCPU counts.
    struct Counters of Counter {
        /// Drains that found something.
        drains: "drains",
        /// Vectors that were drained and injected.
        injected: "injected",
        /// Reserved vectors that were found pending, and dropped.
        dropped_reserved: "dropped-reserved",
        /// How often the vCPU was taken out of the guest because there were pending bits.
        forced_exits: "forced-exits",
    }
}

impl Counters {
    /// Returns what senders may read.
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
    /// Takes KVM's file of a vCPU of the current process.
    pub(crate) fn new(real: VcpuFile, target: Arc<KickTarget>, vm: Arc<Vm>) -> impl PinInit<Self> {
        let area = RunArea::find(real.file()).inspect_err(|err| {
            pr_warn_once!(
                "a vCPU's memory is out of reach, and it has no guest interface: error {}\n",
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
            registers <- new_mutex!(Registers::new()),
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
