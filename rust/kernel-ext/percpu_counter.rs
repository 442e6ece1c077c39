// SPDX-License-Identifier: GPL-2.0

//! Counters that are cheap to add to from any CPU.
//!
//! C header: [`include/linux/percpu_counter.h`](srctree/include/linux/percpu_counter.h)

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::LockClassKey,
    types::Opaque, //
};

/// A counter with a part for each CPU.
///
/// # Invariants
///
/// `counter` has been initialised.
#[pin_data(PinnedDrop)]
pub struct PercpuCounter {
    #[pin]
    counter: Opaque<bindings::percpu_counter>,
}

// SAFETY: The C type may be used and destroyed by any thread.
unsafe impl Send for PercpuCounter {}
// SAFETY: The C type may be used by several threads at once.
unsafe impl Sync for PercpuCounter {}

impl PercpuCounter {
    /// Makes a counter that is zero.
    pub fn new(key: Pin<&'static LockClassKey>) -> impl PinInit<Self, Error> {
        // INVARIANT: Initialised by C.
        try_pin_init!(Self {
            counter <- Opaque::try_ffi_init(|counter: *mut bindings::percpu_counter| {
                // SAFETY: `counter` may be written to and is pinned; `PinnedDrop` destroys it.
                to_result(unsafe {
                    bindings::__percpu_counter_init_many(
                        counter,
                        0,
                        bindings::GFP_KERNEL,
                        1,
                        key.as_ptr(),
                    )
                })
            }),
        })
    }

    /// Adds `amount` to this CPU's part.
    #[inline]
    pub fn add(&self, amount: i64) {
        // SAFETY: By the type invariants the counter is initialised. The batch is that of
        // `percpu_counter_add_local()`.
        unsafe { bindings::percpu_counter_add_batch(self.counter.get(), amount, i32::MAX) };
    }

    /// Returns the sum of all parts.
    pub fn sum(&self) -> i64 {
        // SAFETY: By the type invariants the counter is initialised.
        unsafe { bindings::__percpu_counter_sum(self.counter.get()) }
    }
}

#[pinned_drop]
impl PinnedDrop for PercpuCounter {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the counter is initialised.
        unsafe { bindings::percpu_counter_destroy_many(self.counter.get(), 1) };
    }
}
