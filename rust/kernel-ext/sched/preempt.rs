// SPDX-License-Identifier: GPL-2.0

//! Being told when a task leaves its CPU and when it comes back.
//!
//! C header: [`include/linux/preempt.h`](srctree/include/linux/preempt.h)
//!
//! # Concurrency
//!
//! Notifiers belong to a task, and the scheduler calls them in this task only, on its way out and
//! on its way in. So they need no lock against the task itself.

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
    /// It could go on, but another one is to run.
    Preempted,
    /// It waits for something.
    Blocked,
}

/// Who wants to be told.
pub trait PreemptNotified {
    /// The current task is about to leave its CPU.
    ///
    /// Called by the scheduler, with interrupts off and the run queue's lock held: nothing may be
    /// woken up, and no lock be taken that is ever held while something is.
    fn sched_out(&self, why: SchedOut);

    /// The current task is back on a CPU.
    ///
    /// Called by the scheduler, with preemption off.
    fn sched_in(&self);
}

/// Keeps the scheduler looking for notifiers.
///
/// It is free to have many; the first one in the system makes every task switch a little slower.
pub struct PreemptNotifiers(());

impl PreemptNotifiers {
    /// Makes the scheduler look. May sleep.
    pub fn enable() -> Self {
        // SAFETY: This is a static key, and may be counted up at any time.
        unsafe { bindings::preempt_notifier_inc() };
        Self(())
    }

    /// Calls `f`, and tells `target` whenever the current task leaves its CPU and comes back
    /// meanwhile.
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
        // SAFETY: This takes back what `enable` did.
        unsafe { bindings::preempt_notifier_dec() };
    }
}

/// A notifier and whom it tells.
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
    /// To be called by the scheduler alone, for a notifier that is registered.
    unsafe extern "C" fn sched_in(notifier: *mut bindings::preempt_notifier, _cpu: c_int) {
        // SAFETY: The notifier is that of a frame which lives as long as it is registered.
        let frame = unsafe { &*container_of!(Opaque::cast_from(notifier), Self, notifier) };

        frame.target.sched_in();
    }

    /// # Safety
    ///
    /// To be called by the scheduler alone, for a notifier that is registered.
    unsafe extern "C" fn sched_out(
        notifier: *mut bindings::preempt_notifier,
        _next: *mut bindings::task_struct,
    ) {
        // SAFETY: As for `sched_in`.
        let frame = unsafe { &*container_of!(Opaque::cast_from(notifier), Self, notifier) };
        // SAFETY: The current task is valid. As in `task_is_runnable()`, these are what the
        // scheduler has just decided on, under the lock that it holds.
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
        // SAFETY: The frame stays where it is, and lives until the notifier is unregistered, since
        // it is borrowed. Only the current task ever walks its list, and only in the scheduler, so
        // that being scheduled while it changes does no harm: an element is either in it or not.
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
