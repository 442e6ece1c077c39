// SPDX-License-Identifier: GPL-2.0

//! The scheduler's data about the current task, its clocks, and short sleeps.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/stat.h`](srctree/include/linux/sched/stat.h)

use kernel::{
    bindings,
    prelude::*,
    task::Task, //
};

use crate::sched::thread_flags;

/// Returns whether another task wants this CPU, or is about to get it.
///
/// Any context. The answer may be outdated at once, and if the task can be preempted, be that of
/// another CPU.
#[inline]
pub fn is_contended() -> bool {
    // SAFETY: It reads the number of tasks of this CPU's run queue, and any task may ask for it.
    thread_flags::need_resched() || !unsafe { crate::bindings::single_task_running() }
}

/// Returns for how long the current task has waited for a CPU in total, in ns. Process context, and
/// preempt notifiers.
#[inline]
pub fn run_delay_ns() -> u64 {
    // SAFETY: The current task is valid. The scheduler adds to this field in the task's own context,
    // on its way in, and while the task waits, which it does not do now.
    unsafe { (*Task::current_raw()).sched_info.run_delay }
}

/// Returns `CLOCK_MONOTONIC`, the time since boot without suspend, in ns. Any context but NMIs.
#[inline]
pub fn monotonic_ns() -> u64 {
    // SAFETY: It may be called in these contexts. The clock starts at 0, and wraps in 292 years.
    unsafe { bindings::ktime_get() as u64 }
}

/// Returns the scheduler's clock, `local_clock()`, in ns. Any context.
///
/// It costs little in a preempt notifier, as the task switch has just read it. Times of two CPUs can
/// be compared. If the TSC is not stable, they differ by up to a timer tick, and a later one may be
/// the smaller one.
#[inline]
pub fn local_clock_ns() -> u64 {
    // SAFETY: It may be called in any context.
    unsafe { crate::bindings::local_clock() }
}

/// Executes a full barrier on all CPUs. Process context.
///
/// Pairs with a compiler barrier, for paths that cannot afford a full one: if a task writes A and then
/// reads B, and another writes B, calls this and then reads A, at least one of them sees what the
/// other wrote.
pub fn barrier_on_all_cpus() {
    // SAFETY: This is process context, with interrupts on.
    unsafe { crate::bindings::kick_all_cpus_sync() };
}

/// Sleeps until the second timer tick from now at the latest. Process context.
///
/// # Errors
///
/// `EINTR` if the task is being killed.
pub fn sleep_killable_one_tick() -> Result {
    // SAFETY: This is process context, and the timeout is not negative.
    unsafe { bindings::schedule_timeout_killable(1) };
    // SAFETY: It only reads the current task.
    if unsafe { crate::bindings::fatal_signal_pending() } {
        return Err(EINTR);
    }
    Ok(())
}
