// SPDX-License-Identifier: GPL-2.0

//! A mutex that a task can be killed in waiting for.
//!
//! C header: [`include/linux/mutex.h`](srctree/include/linux/mutex.h)

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

#[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
use bindings::mutex_lock_killable;

/// What the macro of this name is with lockdep.
///
/// # Safety
///
/// The mutex must be valid, and this be process context.
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
unsafe fn mutex_lock_killable(mutex: *mut bindings::mutex) -> kernel::ffi::c_int {
    // SAFETY: The caller vouches for it. There is no outer lock to nest in.
    unsafe { bindings::_mutex_lock_killable(mutex, 0, core::ptr::null_mut()) }
}

/// A mutex that protects no data, but a section of code.
#[pin_data]
pub struct KillableMutex {
    #[pin]
    mutex: Opaque<bindings::mutex>,
}

// SAFETY: It is made to be used by several threads.
unsafe impl Send for KillableMutex {}
// SAFETY: As above.
unsafe impl Sync for KillableMutex {}

impl KillableMutex {
    /// Makes a mutex that lockdep knows by `name` and `key`.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid, and so are the name and the key, for ever.
            mutex <- Opaque::ffi_init(|slot| unsafe {
                bindings::__mutex_init(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Waits until nobody else holds the mutex. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` if a fatal signal came first.
    #[inline]
    pub fn lock(&self) -> Result<KillableGuard<'_>> {
        // SAFETY: The mutex was initialised, and stays where it is as it is pinned.
        to_result(unsafe { mutex_lock_killable(self.mutex.get()) })?;
        Ok(KillableGuard {
            mutex: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// Holds a [`KillableMutex`] as long as it lives.
#[must_use = "the mutex is unlocked right away if the guard is not kept"]
pub struct KillableGuard<'a> {
    mutex: &'a KillableMutex,
    _not_send: NotThreadSafe,
}

impl Drop for KillableGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This thread holds the mutex.
        unsafe { bindings::mutex_unlock(self.mutex.mutex.get()) };
    }
}
