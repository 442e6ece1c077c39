// SPDX-License-Identifier: GPL-2.0

//! What the current task may ask the scheduler.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/stat.h`](srctree/include/linux/sched/stat.h)

use kernel::{
    bindings,
    prelude::*,
    task::Task, //
};

use crate::sched::thread_flags;

/// Returns whether another task wants this CPU, or is about to have it.
///
/// Any context. The answer is from just now, and if the task can be preempted, perhaps of another
/// CPU.
#[inline]
pub fn is_contended() -> bool {
    // SAFETY: It reads the number of tasks of this CPU's run queue, and any task may ask for it.
    thread_flags::need_resched() || !unsafe { crate::bindings::single_task_running() }
}

/// Returns for how long the current task has waited for a CPU altogether, in ns. Process context, and
/// preempt notifiers.
#[inline]
pub fn run_delay_ns() -> u64 {
    // SAFETY: The current task is valid. The scheduler adds to this in the task's own context, on its
    // way in, and while the task waits, which it does not do now.
    unsafe { (*Task::current_raw()).sched_info.run_delay }
}

/// Returns the time since boot without suspend, `CLOCK_MONOTONIC`, in ns. Any context but NMIs.
#[inline]
pub fn monotonic_ns() -> u64 {
    // SAFETY: It is callable as this says. The clock starts at 0, and wraps in 292 years.
    unsafe { bindings::ktime_get() as u64 }
}

/// Returns the scheduler's time, `local_clock()`, in ns. Any context.
///
/// It is the clock that a task switch has just read, so it costs little there. Times from two CPUs can be
/// compared, but where the TSC is not stable, they are as far off as a timer tick, and one that is taken
/// later may be the smaller one.
#[inline]
pub fn local_clock_ns() -> u64 {
    // SAFETY: It can be called in any context.
    unsafe { crate::bindings::local_clock() }
}

/// A full barrier on all CPUs. Process context.
///
/// It pairs with a compiler's barrier: what a task has written before it reads something is visible
/// to whoever calls this in between the writing of that something and reading what the task wrote. For
/// paths that cannot afford a barrier of their own.
pub fn barrier_on_all_cpus() {
    // SAFETY: This is process context, with interrupts on.
    unsafe { crate::bindings::kick_all_cpus_sync() };
}

/// Sleeps until the next timer tick but one at the latest. Process context.
///
/// # Errors
///
/// `EINTR` if the task is to die.
pub fn sleep_killable_one_tick() -> Result {
    // SAFETY: This is process context, and the time is no negative one.
    unsafe { bindings::schedule_timeout_killable(1) };
    // SAFETY: It only looks at the current task.
    if unsafe { crate::bindings::fatal_signal_pending() } {
        return Err(EINTR);
    }
    Ok(())
}
