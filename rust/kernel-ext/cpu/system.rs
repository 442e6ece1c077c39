// SPDX-License-Identifier: GPL-2.0

//! Being told when the whole system stops, for a while or for good.
//!
//! C header: [`include/linux/syscore_ops.h`](srctree/include/linux/syscore_ops.h)

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*, //
};

/// Who wants to be told.
pub trait SystemCore: Send + Sync + 'static {
    /// The system is about to be suspended, or an image of it to be taken.
    ///
    /// Called on the last CPU that is online, with interrupts off.
    fn suspend(&self);

    /// The system goes on after [`SystemCore::suspend`], perhaps as its image does, perhaps because
    /// it could not be suspended. Called as that is.
    fn resume(&self);

    /// The kernel ends: it reboots, powers off, or lets another kernel take its place.
    ///
    /// Called in process context. CPUs are online, but neither come nor go.
    fn shutdown(&self);
}

/// Tells `target` until it is dropped.
///
/// # Invariants
///
/// `raw` came from `rust_syscore_register()`, with `target` as its data.
pub struct Registration<T: SystemCore> {
    raw: *mut c_void,
    _target: KBox<T>,
}

// SAFETY: The list of those that want to be told has a lock.
unsafe impl<T: SystemCore> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: SystemCore> Sync for Registration<T> {}

impl<T: SystemCore> Registration<T> {
    /// Begins to tell `target`.
    pub fn register(target: T) -> Result<Self> {
        let target = KBox::new(target, GFP_KERNEL)?;
        let data = (&raw const *target).cast_mut().cast();
        // SAFETY: The data stays where it is until the registration ends, and is a `T`.
        let raw = unsafe { register(Self::suspend, Self::resume, Self::shutdown, data) };

        match raw.is_null() {
            true => Err(ENOMEM),
            // INVARIANT: Just registered.
            false => Ok(Self {
                raw,
                _target: target,
            }),
        }
    }

    /// # Safety
    ///
    /// To be called by the kernel alone, with the data of a registration.
    unsafe extern "C" fn suspend(data: *mut c_void) -> c_int {
        // SAFETY: The data is a `T` that lives as long as it is registered.
        unsafe { &*data.cast::<T>() }.suspend();
        0
    }

    /// # Safety
    ///
    /// As for [`Registration::suspend`].
    unsafe extern "C" fn resume(data: *mut c_void) {
        // SAFETY: As in `suspend`.
        unsafe { &*data.cast::<T>() }.resume();
    }

    /// # Safety
    ///
    /// As for [`Registration::suspend`].
    unsafe extern "C" fn shutdown(data: *mut c_void) {
        // SAFETY: As in `suspend`.
        unsafe { &*data.cast::<T>() }.shutdown();
    }
}

impl<T: SystemCore> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered.
        unsafe { unregister(self.raw) };
    }
}

extern "C" {
    // From `syscore.c`.
    #[link_name = "rust_syscore_register"]
    fn register(
        suspend: unsafe extern "C" fn(*mut c_void) -> c_int,
        resume: unsafe extern "C" fn(*mut c_void),
        shutdown: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) -> *mut c_void;
    #[link_name = "rust_syscore_unregister"]
    fn unregister(this: *mut c_void);
}
