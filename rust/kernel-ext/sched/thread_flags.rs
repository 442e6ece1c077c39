// SPDX-License-Identifier: GPL-2.0

//! Thread flags of the current task: signals, and rescheduling.
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
    // SAFETY: The current task is valid. Its flags are a `long`, changed by atomic operations only.
    unsafe { (&raw mut (*Task::current_raw()).thread_info.flags).cast() }
}

/// Sets `TIF_NOTIFY_SIGNAL` of the current task: `signal_pending()` is true, but no signal is
/// delivered. Any context in which the current task is the intended one.
pub fn set_notify_signal() {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_or(NOTIFY_SIGNAL, flags()) };
}

/// Clears `TIF_NOTIFY_SIGNAL`, unless there is a task work, and returns whether the task has neither
/// a signal nor a task work.
///
/// If [`set_notify_signal`] is called meanwhile, as by a preempt notifier, the flag stays set; that
/// is not a signal. Process context.
pub fn clear_notify_signal() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_andnot(NOTIFY_SIGNAL, flags()) };
    // Pairs with the exchange by which `task_work_add()` adds a work before it sets the flag: if the
    // flag was set for a work, the work is seen here.
    barrier::smp_mb(barrier::Full);

    // SAFETY: The current task is valid, and the field is accessed atomically.
    let works = unsafe { Atomic::from_ptr(&raw mut (*Task::current_raw()).task_works) };
    if !works.load(Relaxed).is_null() {
        set_notify_signal();
        return false;
    }
    // Not `signal_pending()`, for which `TIF_NOTIFY_SIGNAL` counts, too.
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & SIGPENDING == 0 }
}

/// Returns `signal_pending()`: whether the current task has a signal, or `TIF_NOTIFY_SIGNAL` is set.
#[inline]
pub fn signal_pending() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & (SIGPENDING | NOTIFY_SIGNAL) != 0 }
}

/// Returns whether the scheduler wants the current task to leave its CPU, at once or lazily.
#[inline]
pub(crate) fn need_resched() -> bool {
    // SAFETY: The flags are valid.
    unsafe { bindings::atomic64_read(flags()) & NEED_RESCHED != 0 }
}
