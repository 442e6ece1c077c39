// SPDX-License-Identifier: GPL-2.0

//! Flags by which the kernel makes a task leave what it is doing.
//!
//! C header: [`include/linux/thread_info.h`](srctree/include/linux/thread_info.h)

use kernel::{
    bindings,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier, //
    },
    task::Task, //
};

/// `_TIF_NOTIFY_SIGNAL`.
const NOTIFY_SIGNAL: i64 = 1 << bindings::TIF_NOTIFY_SIGNAL;
/// `_TIF_SIGPENDING`.
const SIGPENDING: i64 = 1 << bindings::TIF_SIGPENDING;

/// `_TIF_NEED_RESCHED`, and `_TIF_NEED_RESCHED_LAZY`.
const NEED_RESCHED: i64 = 1 << bindings::TIF_NEED_RESCHED | 1 << bindings::TIF_NEED_RESCHED_LAZY;

/// Returns the flags of the current task.
fn flags() -> *mut bindings::atomic64_t {
    // SAFETY: The current task is valid. Its flags are a `long`, which is changed by atomic
    // operations only.
    unsafe { (&raw mut (*Task::current_raw()).thread_info.flags).cast() }
}

/// Makes the current task look as if it had a signal, to all that ask `signal_pending()`.
///
/// Any context in which the current task is the one that is meant.
pub fn set_notify_signal() {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_or(NOTIFY_SIGNAL, flags()) };
}

/// Takes back [`set_notify_signal`], unless there is a task work that wants to be run.
///
/// Returns whether the task can go on as if nothing had been: not if it has a signal or a task work.
/// Whoever has called [`set_notify_signal`] may do so again meanwhile, from a scheduler's callback
/// for example: that is no signal, and the flag stays set. Process context.
pub fn clear_notify_signal() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_andnot(NOTIFY_SIGNAL, flags()) };
    // Pairs with the exchange by which `task_work_add()` adds a work before it sets the flag: if the
    // flag that has just gone was for a work, the work is seen here.
    barrier::smp_mb(barrier::Full);

    // SAFETY: The current task is valid, and the field is accessed atomically.
    let works = unsafe { Atomic::from_ptr(&raw mut (*Task::current_raw()).task_works) };
    if !works.load(Relaxed).is_null() {
        set_notify_signal();
        return false;
    }
    // Not `signal_pending()`, to which the other flag is a signal, too.
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & SIGPENDING == 0 }
}

/// Returns whether the current task is to leave the kernel for a signal, or for
/// [`set_notify_signal`]: `signal_pending()`.
#[inline]
pub fn signal_pending() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & (SIGPENDING | NOTIFY_SIGNAL) != 0 }
}

/// Returns whether the scheduler wants the current task to make room, now or when it can.
#[inline]
pub(crate) fn need_resched() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & NEED_RESCHED != 0 }
}
