// SPDX-License-Identifier: GPL-2.0

//! What the current task may ask the scheduler.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/stat.h`](srctree/include/linux/sched/stat.h)

use kernel::bindings;

use crate::thread_flags;

/// Returns whether another task wants this CPU, or is about to have it.
///
/// Any context. The answer is from just now, and if the task can be preempted, perhaps of another
/// CPU.
#[inline]
pub fn is_contended() -> bool {
    // SAFETY: It reads the number of tasks of this CPU's run queue, and any task may ask for it.
    thread_flags::need_resched() || !unsafe { crate::bindings::single_task_running() }
}

/// Returns the time since boot without suspend, `CLOCK_MONOTONIC`, in ns. Any context but NMIs.
#[inline]
pub fn monotonic_ns() -> u64 {
    // SAFETY: It is callable as this says. The clock starts at 0, and wraps in 292 years.
    unsafe { bindings::ktime_get() as u64 }
}
