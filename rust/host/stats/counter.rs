// SPDX-License-Identifier: GPL-2.0

//! Counters, and tables of them.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel_ext::sync::read_once::ReadOnce;

/// A counter that one thread at a time adds to, without an atomic read-modify-write, and that any thread reads.
///
/// If two threads add at the same time, one addition may be lost.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.write_once(self.0.read_once().wrapping_add(count));
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.read_once()
    }
}

/// A counter that any number of threads add to.
pub(crate) struct SharedCounter(Atomic<u64>);

impl SharedCounter {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Defines a table of counters: a struct, and its lines in `/proc/PID/fdinfo`, `pvirq-NAME`.
macro_rules! counters {
    (
        $(#[$attribute:meta])*
        struct $table:ident of $counter:ident {
            $($(#[$counter_attribute:meta])* $field:ident: $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        pub(crate) struct $table {
            $($(#[$counter_attribute])* pub(crate) $field: $counter,)+
        }

        impl $table {
            pub(crate) const fn new() -> Self {
                Self {
                    $($field: $counter::new(),)+
                }
            }

            /// Adds the lines to a `/proc/PID/fdinfo` file.
            #[allow(dead_code, reason = "fdinfo does not show every table")]
            pub(crate) fn show(&self, m: &kernel::seq_file::SeqFile) {
                $(kernel::seq_print!(m, "pvirq-{}:\t{}\n", $name, self.$field.get());)+
            }
        }
    };
}
pub(crate) use counters;
