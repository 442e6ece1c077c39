// SPDX-License-Identifier: GPL-2.0

//! Statistics of the module, in debugfs under `pvirq`.
//!
//! # Concurrency
//!
//! All counters are added to without a lock, from any number of threads, and read while they
//! change: each is right, but not all are of the same instant.

use kernel::{
    debugfs::Scope,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};
use kernel_ext::percpu_counter::PercpuCounter;

use crate::Overlay;

/// How many objects of a kind there have been, and how many of them are gone.
pub(crate) struct Population {
    begun: Atomic<u64>,
    ended: Atomic<u64>,
}

impl Population {
    const fn new() -> Self {
        Self {
            begun: Atomic::new(0),
            ended: Atomic::new(0),
        }
    }

    /// Counts a new object.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Counts an object as gone.
    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    fn created(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    fn live(&self) -> u64 {
        // In this order, and still not of one instant.
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(ended)
    }
}

/// The counters of the module.
#[pin_data]
pub(crate) struct Statistics {
    pub(crate) vms: Population,
    pub(crate) vcpus: Population,
    /// Calls of `KVM_RUN`.
    #[pin]
    pub(crate) runs: PercpuCounter,
}

impl Statistics {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            vms: Population::new(),
            vcpus: Population::new(),
            runs <- PercpuCounter::new(static_lock_class!()),
        })
    }
}

/// Shows the statistics for as long as the result lives.
pub(crate) fn debugfs(overlay: Arc<Overlay>) -> impl PinInit<Scope<Arc<Overlay>>> {
    Scope::dir(overlay, c"pvirq", |overlay, dir| {
        dir.read_callback_file(c"vms", overlay, &|o, f| {
            writeln!(f, "{}", o.statistics.vms.live())
        });
        dir.read_callback_file(c"vms_created", overlay, &|o, f| {
            writeln!(f, "{}", o.statistics.vms.created())
        });
        dir.read_callback_file(c"vcpus", overlay, &|o, f| {
            writeln!(f, "{}", o.statistics.vcpus.live())
        });
        dir.read_callback_file(c"vcpus_created", overlay, &|o, f| {
            writeln!(f, "{}", o.statistics.vcpus.created())
        });
        dir.read_callback_file(c"runs", overlay, &|o, f| {
            writeln!(f, "{}", o.statistics.runs.sum())
        });
    })
}
