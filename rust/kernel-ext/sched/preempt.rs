// SPDX-License-Identifier: GPL-2.0

//! Preempt notifiers: callbacks for when a task leaves its CPU and when it comes back.
//!
//! C header: [`include/linux/preempt.h`](srctree/include/linux/preempt.h)
//!
//! # Concurrency
//!
//! A notifier belongs to a task. The scheduler calls it in this task only, on the way out and on the
//! way in, so it needs no lock against the task itself.

use core::{
    marker::PhantomData,
    ptr::from_ref, //
};
use kernel::{
    bindings,
    container_of,
    ffi::c_int,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// Why a task leaves its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedOut {
    /// It is runnable, but another task runs.
    Preempted,
    /// It sleeps.
    Blocked,
}

/// The callbacks of a preempt notifier.
pub trait PreemptNotified {
    /// Called when the current task is about to leave its CPU.
    ///
    /// In the scheduler, with interrupts off and the run queue's lock held: this must not wake a
    /// task, nor take a lock under which tasks are woken.
    fn sched_out(&self, why: SchedOut);

    /// Called when the current task is back on a CPU.
    ///
    /// In the scheduler, with preemption off.
    fn sched_in(&self);
}

/// Keeps preempt notifiers enabled.
///
/// The first one in the system makes every task switch a little slower; more are free.
pub struct PreemptNotifiers(());

impl PreemptNotifiers {
    /// Enables preempt notifiers. May sleep.
    pub fn enable() -> Self {
        // SAFETY: This increments a static key, which is allowed at any time in process context.
        unsafe { bindings::preempt_notifier_inc() };
        Self(())
    }

    /// Calls `f`, and meanwhile notifies `target` whenever the current task leaves its CPU and comes
    /// back.
    pub fn notify<T: PreemptNotified, R>(&self, target: &T, f: impl FnOnce() -> R) -> R {
        let frame = Frame {
            notifier: Opaque::new(bindings::preempt_notifier {
                link: Default::default(),
                ops: from_ref(Frame::<T>::OPS).cast_mut(),
            }),
            target,
            _not_send: NotThreadSafe,
        };
        let _registered = Registered::new(&frame);

        f()
    }
}

impl Drop for PreemptNotifiers {
    fn drop(&mut self) {
        // SAFETY: This undoes `enable`.
        unsafe { bindings::preempt_notifier_dec() };
    }
}

/// A notifier and its target.
#[repr(C)]
struct Frame<'a, T> {
    notifier: Opaque<bindings::preempt_notifier>,
    target: &'a T,
    _not_send: NotThreadSafe,
}

impl<T: PreemptNotified> Frame<'_, T> {
    const OPS: &'static bindings::preempt_ops = &bindings::preempt_ops {
        sched_in: Some(Self::sched_in),
        sched_out: Some(Self::sched_out),
    };

    /// # Safety
    ///
    /// Must only be called by the scheduler, for a registered notifier.
    unsafe extern "C" fn sched_in(notifier: *mut bindings::preempt_notifier, _cpu: c_int) {
        // SAFETY: The notifier is that of a frame, which lives as long as it is registered.
        let frame = unsafe { &*container_of!(Opaque::cast_from(notifier), Self, notifier) };

        frame.target.sched_in();
    }

    /// # Safety
    ///
    /// As for [`Frame::sched_in`].
    unsafe extern "C" fn sched_out(
        notifier: *mut bindings::preempt_notifier,
        _next: *mut bindings::task_struct,
    ) {
        // SAFETY: As for `sched_in`.
        let frame = unsafe { &*container_of!(Opaque::cast_from(notifier), Self, notifier) };
        // SAFETY: The current task is valid. The scheduler has set these fields, which
        // `task_is_runnable()` reads, under the lock that it holds.
        let runnable = unsafe {
            let task = kernel::task::Task::current_raw();
            (*task).on_rq != 0 && (*task).se.sched_delayed == 0
        };

        frame.target.sched_out(if runnable {
            SchedOut::Preempted
        } else {
            SchedOut::Blocked
        });
    }
}

/// A frame whose notifier is registered.
struct Registered<'a, T> {
    frame: &'a Frame<'a, T>,
    _not_send: PhantomData<NotThreadSafe>,
}

impl<'a, T: PreemptNotified> Registered<'a, T> {
    fn new(frame: &'a Frame<'a, T>) -> Self {
        // SAFETY: The frame is borrowed, so it stays where it is until the notifier is unregistered.
        // Only the current task walks its list, and only in the scheduler, so being scheduled while
        // the list changes does no harm: an element is either in it or not.
        unsafe { bindings::preempt_notifier_register(frame.notifier.get()) };
        Self {
            frame,
            _not_send: PhantomData,
        }
    }
}

impl<T> Drop for Registered<'_, T> {
    fn drop(&mut self) {
        // SAFETY: It was registered for this task, which this type cannot leave.
        unsafe { bindings::preempt_notifier_unregister(self.frame.notifier.get()) };
    }
}
