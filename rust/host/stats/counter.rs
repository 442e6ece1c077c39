// SPDX-License-Identifier: GPL-2.0

//! Counters that cost next to nothing.

use kernel::sync::atomic::Atomic;
use kernel_ext::read_once::ReadOnce;

/// A counter that one thread at a time adds to, and any reads.
///
/// If two add at the same time, one of them may not be counted.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    pub(crate) fn new() -> Self {
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
