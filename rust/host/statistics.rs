// SPDX-License-Identifier: GPL-2.0

//! Statistics of the module, in debugfs under `pvirq`.
//!
//! A run costs no more than an addition to a counter in the vCPU, which is in the cache anyway: the
//! total is made when it is asked for, from the vCPUs that there are and what those before them
//! have left. (With a counter per CPU instead, an exit took up to 5 % longer.)
//!
//! # Concurrency
//!
//! Process context. The lock of [`Statistics`] is a leaf: nothing is called, and no reference is
//! dropped, with it held.

use kernel::{
    debugfs::Scope,
    list::{
        List,
        ListArc, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::{
    vcpu::Vcpu,
    Overlay, //
};

/// The statistics of the module.
#[pin_data]
pub(crate) struct Statistics {
    #[pin]
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    vms: Population,
    vcpus: Population,
    live_vcpus: List<Vcpu>,
    /// The runs of the vCPUs that are gone.
    past_runs: u64,
}

/// How many objects of a kind there have been, and how many of them there are.
#[derive(Clone, Copy, Default)]
struct Population {
    created: u64,
    live: u64,
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

impl Statistics {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner::default()),
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

    /// Counts a new vCPU, and its runs from now on.
    pub(crate) fn begin_vcpu(&self, vcpu: ListArc<Vcpu>) {
        let mut inner = self.inner.lock();

        inner.vcpus.begin();
        inner.live_vcpus.push_back(vcpu);
    }

    /// Counts a vCPU as gone, and its runs among those of the past.
    pub(crate) fn end_vcpu(&self, vcpu: &Vcpu) {
        let mut inner = self.inner.lock();

        inner.vcpus.end();
        inner.past_runs += vcpu.runs();
        // SAFETY: A vCPU is in no other list.
        let removed = unsafe { inner.live_vcpus.remove(vcpu) };
        drop(inner);
        drop(removed);
    }

    fn vms(&self) -> Population {
        self.inner.lock().vms
    }

    fn vcpus(&self) -> Population {
        self.inner.lock().vcpus
    }

    fn runs(&self) -> u64 {
        let inner = self.inner.lock();

        inner.past_runs + inner.live_vcpus.iter().map(|vcpu| vcpu.runs()).sum::<u64>()
    }
}

/// Shows the statistics for as long as the result lives.
pub(crate) fn debugfs(overlay: Arc<Overlay>) -> impl PinInit<Scope<Arc<Overlay>>> {
    Scope::dir(overlay, c"pvirq", |overlay, dir| {
        dir.read_callback_file(c"vms", overlay, &|overlay, f| {
            writeln!(f, "{}", overlay.statistics.vms().live)
        });
        dir.read_callback_file(c"vms_created", overlay, &|overlay, f| {
            writeln!(f, "{}", overlay.statistics.vms().created)
        });
        dir.read_callback_file(c"vcpus", overlay, &|overlay, f| {
            writeln!(f, "{}", overlay.statistics.vcpus().live)
        });
        dir.read_callback_file(c"vcpus_created", overlay, &|overlay, f| {
            writeln!(f, "{}", overlay.statistics.vcpus().created)
        });
        dir.read_callback_file(c"runs", overlay, &|overlay, f| {
            writeln!(f, "{}", overlay.statistics.runs())
        });
    })
}
