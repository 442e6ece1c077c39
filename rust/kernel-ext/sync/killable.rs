// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters can be killed.
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

/// The macro of this name, with lockdep.
///
/// # Safety
///
/// The mutex must be valid. Process context only.
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
unsafe fn mutex_lock_killable(mutex: *mut bindings::mutex) -> kernel::ffi::c_int {
    // SAFETY: By the safety requirements. There is no outer lock to nest in.
    unsafe { bindings::_mutex_lock_killable(mutex, 0, core::ptr::null_mut()) }
}

/// A mutex that protects a section of code, and no data.
#[pin_data]
pub struct KillableMutex {
    #[pin]
    mutex: Opaque<bindings::mutex>,
}

// SAFETY: Any thread may use a mutex.
unsafe impl Send for KillableMutex {}
// SAFETY: As above.
unsafe impl Sync for KillableMutex {}

impl KillableMutex {
    /// Makes a mutex that lockdep knows by `name` and `key`.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid. The name and the key are static.
            mutex <- Opaque::ffi_init(|slot| unsafe {
                bindings::__mutex_init(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Locks the mutex. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` if the task is killed while it waits.
    #[inline]
    pub fn lock(&self) -> Result<KillableGuard<'_>> {
        // SAFETY: The mutex is initialised and pinned.
        to_result(unsafe { mutex_lock_killable(self.mutex.get()) })?;
        Ok(KillableGuard {
            mutex: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// Holds a [`KillableMutex`] until it is dropped.
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
