// SPDX-License-Identifier: GPL-2.0

//! Callbacks for when the system is suspended, resumes, or ends.
//!
//! C header: [`include/linux/syscore_ops.h`](srctree/include/linux/syscore_ops.h)

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*, //
};

/// The callbacks of syscore operations.
pub trait SystemCore: Send + Sync + 'static {
    /// Called when the system is about to be suspended, or an image of it to be taken.
    ///
    /// On the last CPU that is online, with interrupts off.
    fn suspend(&self);

    /// Called when the system continues after [`SystemCore::suspend`]: it has been resumed, perhaps
    /// from its image, or could not be suspended. In the same context.
    fn resume(&self);

    /// Called when the kernel ends: it reboots, powers off, or starts another kernel by kexec.
    ///
    /// In process context. CPUs are online, and CPU hotplug is off.
    fn shutdown(&self);
}

/// The registration of the callbacks, until it is dropped.
///
/// # Invariants
///
/// `raw` came from `rust_syscore_register()`, with `target` as its data.
pub struct Registration<T: SystemCore> {
    raw: *mut c_void,
    _target: KBox<T>,
}

// SAFETY: The list of syscore operations has a lock.
unsafe impl<T: SystemCore> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: SystemCore> Sync for Registration<T> {}

impl<T: SystemCore> Registration<T> {
    /// Registers the callbacks of `target`.
    pub fn register(target: T) -> Result<Self> {
        let target = KBox::new(target, GFP_KERNEL)?;
        let data = (&raw const *target).cast_mut().cast();
        // SAFETY: The data is a `T`, and stays where it is until the registration ends.
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
    /// Must only be called by the kernel, with the data of a registration.
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
