// SPDX-License-Identifier: GPL-2.0

//! Work that is done in softirq, and in the interrupt that raises one.
//!
//! C headers: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! A softirq that is raised by a task waits for `ksoftirqd`; one that is raised in an interrupt runs
//! at the end of it, on the same CPU. [`IrqWork`] makes such an interrupt.
//!
//! # Concurrency
//!
//! Each of these runs once after it was scheduled last, and never on two CPUs at the same time. To
//! drop one waits until it does not run; whoever drops it sees to it that nobody schedules it.

use core::{
    marker::PhantomPinned,
    ptr::addr_of_mut, //
};
use kernel::{
    bindings,
    container_of,
    cpu::CpuId,
    prelude::*,
    sync::{
        Arc,
        LockClassKey, //
    },
    types::Opaque, //
};

/// What there is to do.
pub trait Runs: Send + Sync {
    /// Does it, and says whether to run again, after others that wait for their turn.
    ///
    /// Interrupts are on in softirq. In an [`IrqWork`] they are off, and the answer counts for nothing.
    fn run(&self) -> bool;
}

/// Returns whether the current CPU is in an interrupt or a softirq, or has softirqs disabled: whether
/// a softirq that is raised now is run on the way out.
#[inline]
pub fn in_interrupt() -> bool {
    // SAFETY: This may be called in any context.
    unsafe { crate::bindings::in_interrupt() }
}

/// Returns whether the current task is a `ksoftirqd`.
#[inline]
pub fn in_ksoftirqd() -> bool {
    // SAFETY: This may be called in any context.
    unsafe { crate::bindings::in_ksoftirqd() }
}

/// A tasklet.
#[pin_data(PinnedDrop)]
pub struct Tasklet<T: Runs> {
    #[pin]
    tasklet: Opaque<bindings::tasklet_struct>,
    target: Arc<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A tasklet may be scheduled and killed by anybody.
unsafe impl<T: Runs> Send for Tasklet<T> {}
// SAFETY: As above.
unsafe impl<T: Runs> Sync for Tasklet<T> {}

impl<T: Runs> Tasklet<T> {
    /// Makes a tasklet that runs `target`.
    pub fn new(target: Arc<T>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid.
            tasklet <- Opaque::ffi_init(|slot| unsafe {
                bindings::tasklet_setup(slot, Some(Self::call))
            }),
            target,
            _pin: PhantomPinned,
        })
    }

    /// Has it run on this CPU. Any context but NMIs.
    #[inline]
    pub fn schedule(&self) {
        // SAFETY: The tasklet was set up.
        unsafe { crate::bindings::tasklet_schedule(self.tasklet.get()) };
    }

    /// # Safety
    ///
    /// To be called as the callback of a tasklet that is in one of these.
    unsafe extern "C" fn call(tasklet: *mut bindings::tasklet_struct) {
        // SAFETY: The tasklet lives until it was killed.
        let this = unsafe { &*container_of!(Opaque::cast_from(tasklet), Self, tasklet) };

        if this.target.run() {
            this.schedule();
        }
    }
}

/// As an [`IrqWork`]'s target: schedules the tasklet.
impl<T: Runs> Runs for Tasklet<T> {
    fn run(&self) -> bool {
        self.schedule();
        false
    }
}

#[pinned_drop]
impl<T: Runs> PinnedDrop for Tasklet<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The tasklet was set up, and this is process context.
        unsafe { bindings::tasklet_kill(self.tasklet.get()) };
    }
}

/// A work of the workqueue for bottom halves, `WQ_BH`.
#[pin_data(PinnedDrop)]
pub struct BhWork<T: Runs> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    target: Arc<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A work may be queued and cancelled by anybody.
unsafe impl<T: Runs> Send for BhWork<T> {}
// SAFETY: As above.
unsafe impl<T: Runs> Sync for BhWork<T> {}

impl<T: Runs> BhWork<T> {
    /// Makes a work that runs `target`, and that lockdep knows by `name` and `key`.
    pub fn new(
        target: Arc<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid, and the name and the key are for ever.
            work <- Opaque::ffi_init(|slot| unsafe {
                bindings::init_work_with_key(
                    slot,
                    Some(Self::call),
                    false,
                    name.as_char_ptr(),
                    key.as_ptr(),
                )
            }),
            target,
            _pin: PhantomPinned,
        })
    }

    /// Has it run on this CPU. Any context but NMIs.
    #[inline]
    pub fn schedule(&self) {
        // SAFETY: The queue is there from boot on, and the work was initialised.
        unsafe {
            let queue = *addr_of_mut!(bindings::system_bh_wq);
            bindings::queue_work_on(CpuId::current().into(), queue, self.work.get());
        }
    }

    /// # Safety
    ///
    /// To be called as the function of a work that is in one of these.
    unsafe extern "C" fn call(work: *mut bindings::work_struct) {
        // SAFETY: The work lives until it was cancelled.
        let this = unsafe { &*container_of!(Opaque::cast_from(work), Self, work) };

        if this.target.run() {
            this.schedule();
        }
    }
}

/// As an [`IrqWork`]'s target: queues the work.
impl<T: Runs> Runs for BhWork<T> {
    fn run(&self) -> bool {
        self.schedule();
        false
    }
}

#[pinned_drop]
impl<T: Runs> PinnedDrop for BhWork<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The work was initialised, and this is process context.
        unsafe { bindings::cancel_work_sync(self.work.get()) };
    }
}

/// An interrupt that a CPU sends itself.
#[pin_data(PinnedDrop)]
pub struct IrqWork<T: Runs> {
    #[pin]
    work: Opaque<bindings::irq_work>,
    target: Arc<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A work may be queued and waited for by anybody.
unsafe impl<T: Runs> Send for IrqWork<T> {}
// SAFETY: As above.
unsafe impl<T: Runs> Sync for IrqWork<T> {}

impl<T: Runs> IrqWork<T> {
    /// Makes one whose handler runs `target`.
    pub fn new(target: Arc<T>) -> impl PinInit<Self> {
        pin_init!(Self {
            // A work is zero but for its function, see `IRQ_WORK_INIT`.
            work: Opaque::new(bindings::irq_work {
                func: Some(Self::call),
                ..Default::default()
            }),
            target,
            _pin: PhantomPinned,
        })
    }

    /// Interrupts this CPU as soon as it can be. Any context.
    #[inline]
    pub fn queue(&self) {
        // SAFETY: The work was initialised.
        unsafe { bindings::irq_work_queue(self.work.get()) };
    }

    /// # Safety
    ///
    /// To be called as the function of a work that is in one of these.
    unsafe extern "C" fn call(work: *mut bindings::irq_work) {
        // SAFETY: The work lives until it has been waited for.
        let this = unsafe { &*container_of!(Opaque::cast_from(work), Self, work) };

        this.target.run();
    }
}

#[pinned_drop]
impl<T: Runs> PinnedDrop for IrqWork<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The work was initialised, and this is process context.
        unsafe { bindings::irq_work_sync(self.work.get()) };
    }
}
