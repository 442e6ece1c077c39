// SPDX-License-Identifier: GPL-2.0

//! Objects that readers find under RCU.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use core::ptr::{
    null_mut,
    NonNull, //
};
use kernel::{
    alloc::allocator::Kmalloc,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        rcu, //
    }, //
};

/// An optional object that can be replaced while others read it.
///
/// Reading costs a load. Replacing waits for a grace period.
///
/// # Invariants
///
/// The pointer is null or came from a box. It goes back into one only when no reader that has
/// loaded it can still be in its RCU read-side critical section.
pub struct RcuBox<T> {
    pointer: Atomic<*mut T>,
    _owned: core::marker::PhantomData<KBox<T>>,
}

// SAFETY: It owns a `KBox<T>`, and lends it to any thread.
unsafe impl<T: Send + Sync> Send for RcuBox<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for RcuBox<T> {}

impl<T> RcuBox<T> {
    /// Makes one without an object.
    pub const fn empty() -> Self {
        // INVARIANT: The pointer is null.
        Self {
            pointer: Atomic::new(null_mut()),
            _owned: core::marker::PhantomData,
        }
    }

    /// Returns whether there is no object, which may be outdated at once.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pointer.load(Acquire).is_null()
    }

    /// Returns the object for the duration of the RCU read-side critical section.
    #[inline]
    pub fn get<'a>(&'a self, _guard: &'a rcu::Guard) -> Option<&'a T> {
        // An acquire in place of the address dependency of `rcu_dereference()`, which the compiler
        // need not keep. Pairs with the exchange in `replace`.
        let pointer = NonNull::new(self.pointer.load(Acquire))?;

        // SAFETY: By the type invariants the object lives until the critical section ends.
        Some(unsafe { pointer.as_ref() })
    }

    /// Replaces the object by `new`, waits until no reader uses the old one, and returns that. May
    /// sleep if there was one.
    pub fn replace(&self, new: Option<KBox<T>>) -> Option<KBox<T>> {
        let new = new.map_or(null_mut(), KBox::into_raw);
        // The release half is that of `rcu_assign_pointer()`.
        let old = NonNull::new(self.pointer.xchg(new, Full))?;

        rcu::synchronize_rcu();
        // SAFETY: By the type invariants it came from a box. The exchange has removed it, and all
        // readers that had found it have left their critical sections.
        // INVARIANT: For the same reason it may go back into a box.
        Some(unsafe { Box::<T, Kmalloc>::from_raw(old.as_ptr()) })
    }
}

impl<T> Drop for RcuBox<T> {
    fn drop(&mut self) {
        if let Some(last) = NonNull::new(*self.pointer.get_mut()) {
            // SAFETY: By the type invariants it came from a box. It has no readers: a reference from
            // `get` keeps this borrowed.
            drop(unsafe { Box::<T, Kmalloc>::from_raw(last.as_ptr()) });
        }
    }
}
