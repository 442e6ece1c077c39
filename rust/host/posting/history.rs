// SPDX-License-Identifier: GPL-2.0

//! Counters of a VM's registrations, and of the reasons for which they ended.

use kernel::{
    new_spinlock,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::SpinLock, //
};
use pvirq_protocol::ioctl::EndReason;

/// Each reason, and its name in `/proc/PID/fdinfo`.
const REASONS: [(EndReason, &CStr); 7] = [
    (EndReason::Unregistered, c"unregistered"),
    (EndReason::Replaced, c"replaced"),
    (EndReason::MemoryMoved, c"memory-moved"),
    (EndReason::DirtyLogging, c"dirty-logging"),
    (EndReason::StateReplaced, c"state-replaced"),
    (EndReason::Vmm, c"vmm"),
    (EndReason::Forbidden, c"forbidden"),
];

/// The registrations of a VM.
#[pin_data]
pub(crate) struct History {
    #[pin]
    inner: SpinLock<Inner>,
}

#[derive(Clone, Copy)]
pub(crate) struct Inner {
    pub(crate) registrations: u64,
    /// Why the last registration that has ended did so.
    pub(crate) last: EndReason,
    /// How many registrations have ended for each of [`REASONS`].
    ended: [u64; REASONS.len()],
}

impl History {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(Inner {
                registrations: 0,
                last: EndReason::None,
                ended: [0; REASONS.len()],
            }, "pvirq_vm_history"),
        })
    }

    /// Returns a copy of the counters.
    pub(crate) fn get(&self) -> Inner {
        *self.inner.lock()
    }

    /// Counts a registration.
    pub(crate) fn begin(&self) {
        self.inner.lock().registrations += 1;
    }

    /// Counts the end of a registration.
    pub(crate) fn end(&self, why: EndReason) {
        let mut inner = self.inner.lock();

        inner.last = why;
        for (count, (reason, _)) in inner.ended.iter_mut().zip(REASONS) {
            *count += u64::from(reason == why);
        }
    }

    /// Adds the counters to a `/proc/PID/fdinfo` file.
    pub(crate) fn show(&self, m: &SeqFile) {
        let inner = self.get();

        seq_print!(m, "pvirq-registrations:\t{}\n", inner.registrations);
        for (count, (_, name)) in inner.ended.into_iter().zip(REASONS) {
            seq_print!(m, "pvirq-ended-{name}:\t{count}\n");
        }
    }
}
