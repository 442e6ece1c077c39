// SPDX-License-Identifier: GPL-2.0

//! The module's totals.
//!
//! A run adds to a counter of its vCPU, which is in the cache anyway. The sum over the live vCPUs and those that are
//! gone is computed when it is read. (With a counter per CPU an exit took up to 5 % longer.)
//!
//! # Concurrency
//!
//! Process context. The lock of [`Totals`] is a leaf: nothing is called, and no reference is dropped, with it held.

use kernel::{
    list::{
        List,
        ListArc, //
    },
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

use crate::vm::kick_target::KickTarget;

/// The module's totals.
#[pin_data]
pub(crate) struct Totals {
    #[pin]
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    vms: Population,
    vcpus: Population,
    live_vcpus: List<KickTarget, 1>,
    /// The runs of vCPUs whose file has been closed.
    past_runs: u64,
}

/// How many objects of a kind have been created, and how many of them are live.
#[derive(Clone, Copy, Default)]
pub(crate) struct Population {
    pub(crate) created: u64,
    pub(crate) live: u64,
}

impl Population {
    fn begin(&mut self) {
        self.created += 1;
        self.live += 1;
    }

    fn end(&mut self) {
        self.live -= 1;
    }
}

impl Totals {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner::default(), "pvirq_totals"),
        })
    }

    /// Counts a new VM.
    pub(crate) fn begin_vm(&self) {
        self.inner.lock().vms.begin();
    }

    /// Counts a VM as gone.
    pub(crate) fn end_vm(&self) {
        self.inner.lock().vms.end();
    }

    /// Counts a new vCPU, and includes its runs.
    pub(crate) fn begin_vcpu(&self, vcpu: ListArc<KickTarget, 1>) {
        let mut inner = self.inner.lock();

        inner.vcpus.begin();
        inner.live_vcpus.push_back(vcpu);
    }

    /// Counts a vCPU as gone, and keeps the number of its runs.
    pub(crate) fn end_vcpu(&self, vcpu: &KickTarget) {
        let mut inner = self.inner.lock();

        inner.vcpus.end();
        inner.past_runs += vcpu.runs.get();
        // SAFETY: A vCPU is in no other list with these links.
        let removed = unsafe { inner.live_vcpus.remove(vcpu) };
        drop(inner);
        drop(removed);
    }

    /// Returns the number of VMs.
    pub(crate) fn vms(&self) -> Population {
        self.inner.lock().vms
    }

    /// Returns the number of vCPUs.
    pub(crate) fn vcpus(&self) -> Population {
        self.inner.lock().vcpus
    }

    /// Returns how often `KVM_RUN` has been called.
    pub(crate) fn runs(&self) -> u64 {
        let inner = self.inner.lock();

        inner.past_runs
            + inner
                .live_vcpus
                .iter()
                .map(|vcpu| vcpu.runs.get())
                .sum::<u64>()
    }
}
