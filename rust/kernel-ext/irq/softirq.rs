// SPDX-License-Identifier: GPL-2.0

//! Deferred work in softirq, and in an interrupt that raises one.
//!
//! C headers: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! A softirq that a task raises waits for `ksoftirqd`; one that is raised in an interrupt runs at its
//! end, on the same CPU. [`IrqWork`] makes such an interrupt.
//!
//! # Concurrency
//!
//! Each of these runs once after it was last scheduled, and never on two CPUs at the same time.
//! Dropping one waits until it does not run; callers ensure that it is not scheduled meanwhile.

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

/// The function of a [`Tasklet`], a [`BhWork`] or an [`IrqWork`].
pub trait Runs: Send + Sync {
    /// Runs, and returns whether to run again after other softirqs.
    ///
    /// Interrupts are on in softirq. In an [`IrqWork`] they are off, and the result is ignored.
    fn run(&self) -> bool;
}

/// Returns whether the current CPU is in an interrupt or a softirq, or has softirqs disabled. Then a
/// softirq that is raised now runs on the way out.
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

// SAFETY: Any thread may schedule and kill a tasklet.
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

    /// Schedules the tasklet on this CPU. Any context but NMIs.
    #[inline]
    pub fn schedule(&self) {
        // SAFETY: The tasklet was set up.
        unsafe { crate::bindings::tasklet_schedule(self.tasklet.get()) };
    }

    /// # Safety
    ///
    /// Must only be called as the callback of the tasklet in a `Tasklet<T>`.
    unsafe extern "C" fn call(tasklet: *mut bindings::tasklet_struct) {
        // SAFETY: The tasklet is killed before it is freed.
        let this = unsafe { &*container_of!(Opaque::cast_from(tasklet), Self, tasklet) };

        if this.target.run() {
            this.schedule();
        }
    }
}

/// As the target of an [`IrqWork`], schedules the tasklet.
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

/// A work item of the bottom-half workqueue, `WQ_BH`.
#[pin_data(PinnedDrop)]
pub struct BhWork<T: Runs> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    target: Arc<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Any thread may queue and cancel a work.
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
            // SAFETY: The slot is valid. The name and the key are static.
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

    /// Queues the work on this CPU. Any context but NMIs.
    #[inline]
    pub fn schedule(&self) {
        // SAFETY: The queue exists from boot on, and the work was initialised.
        unsafe {
            let queue = *addr_of_mut!(bindings::system_bh_wq);
            bindings::queue_work_on(CpuId::current().into(), queue, self.work.get());
        }
    }

    /// # Safety
    ///
    /// Must only be called as the function of the work in a `BhWork<T>`.
    unsafe extern "C" fn call(work: *mut bindings::work_struct) {
        // SAFETY: The work is cancelled before it is freed.
        let this = unsafe { &*container_of!(Opaque::cast_from(work), Self, work) };

        if this.target.run() {
            this.schedule();
        }
    }
}

/// As the target of an [`IrqWork`], queues the work.
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

// SAFETY: Any thread may queue a work and wait for it.
unsafe impl<T: Runs> Send for IrqWork<T> {}
// SAFETY: As above.
unsafe impl<T: Runs> Sync for IrqWork<T> {}

impl<T: Runs> IrqWork<T> {
    /// Makes one whose handler runs `target`.
    pub fn new(target: Arc<T>) -> impl PinInit<Self> {
        pin_init!(Self {
            // All zero but the function, as `IRQ_WORK_INIT` has it.
            work: Opaque::new(bindings::irq_work {
                func: Some(Self::call),
                ..Default::default()
            }),
            target,
            _pin: PhantomPinned,
        })
    }

    /// Interrupts this CPU as soon as interrupts are on. Any context.
    #[inline]
    pub fn queue(&self) {
        // SAFETY: The work was initialised.
        unsafe { bindings::irq_work_queue(self.work.get()) };
    }

    /// # Safety
    ///
    /// Must only be called as the function of the work in an `IrqWork<T>`.
    unsafe extern "C" fn call(work: *mut bindings::irq_work) {
        // SAFETY: The work is waited for before it is freed.
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
