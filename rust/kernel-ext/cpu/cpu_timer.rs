// SPDX-License-Identifier: GPL-2.0

//! A timer on each CPU.
//!
//! C headers: [`include/linux/timer.h`](srctree/include/linux/timer.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h)
//!
//! # Concurrency
//!
//! The timer of each CPU expires on that CPU, in softirq, with interrupts on. A thread that is bound to the CPU starts and
//! stops it, such as that of the [`hotplug`](crate::hotplug) callbacks. After [`CpuTimers::stop`] the CPU's timer neither
//! runs nor is pending, and nothing arms it.

use kernel::{
    cpu::CpuId,
    ffi::{
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc,
    time::Jiffies, //
};

/// The handler of per-CPU timers.
pub trait CpuTimer: Send + Sync + 'static {
    /// Whether the timer does not wake an idle CPU, and expires when it wakes for another reason.
    const DEFERRABLE: bool;

    /// Handles the timer of the current CPU. Returns the time until it expires again, if it does. In softirq.
    fn expired(&self, cpu: CpuId) -> Option<Jiffies>;
}

/// A timer per CPU, which calls a `T`.
///
/// # Invariants
///
/// `raw` came from `rust_cpu_timers_new()`, with `target` as its context.
pub struct CpuTimers<T: CpuTimer> {
    raw: *mut c_void,
    _target: Arc<T>,
}

// SAFETY: Timers have locks of their own, and each function acts on the CPU that calls it.
unsafe impl<T: CpuTimer> Send for CpuTimers<T> {}
// SAFETY: As above.
unsafe impl<T: CpuTimer> Sync for CpuTimers<T> {}

impl<T: CpuTimer> CpuTimers<T> {
    /// Makes timers that expire `delay` after they have been armed. None is started yet. May sleep.
    pub fn new(target: Arc<T>, delay: Jiffies) -> Result<Self> {
        // SAFETY: The target is a `T`, and stays where it is until the timers are freed.
        let raw = unsafe {
            new(
                T::DEFERRABLE,
                delay,
                Self::expired,
                (&raw const *target).cast(),
            )
        };

        match raw.is_null() {
            true => Err(ENOMEM),
            // INVARIANT: Just made.
            false => Ok(Self {
                raw,
                _target: target,
            }),
        }
    }

    /// Allows the timer of the current CPU to be armed. In a thread that is bound to the CPU.
    pub fn start(&self) {
        // SAFETY: By the type invariants these are timers, and the caller stays on this CPU.
        unsafe { start(self.raw) };
    }

    /// Arms the timer of the current CPU, which has been [started](Self::start), or begins its delay anew. In a thread that
    /// is bound to the CPU.
    pub fn arm(&self) {
        // SAFETY: As in `start`.
        unsafe { arm(self.raw) };
    }

    /// Arms the timer of the current CPU by an interrupt to itself, unless it is pending or has not been started.
    ///
    /// With preemption off, in any context but NMIs, and with locks of the scheduler held.
    #[inline]
    pub fn arm_by_interrupt(&self) {
        // SAFETY: By the type invariants these are timers. Preemption is off, so the CPU stays the same.
        unsafe { arm_by_interrupt(self.raw) };
    }

    /// Stops the timer of the current CPU, and waits until it does not run. In a thread that is bound to the CPU; may sleep.
    pub fn stop(&self) {
        // SAFETY: As in `start`.
        unsafe { stop(self.raw) };
    }

    /// # Safety
    ///
    /// Must only be called by the timers.
    unsafe extern "C" fn expired(context: *const c_void, cpu: c_uint) -> c_ulong {
        // SAFETY: The context of the timers is a `T` that lives as long as they do.
        let target = unsafe { &*context.cast::<T>() };

        CpuId::from_u32(cpu)
            .and_then(|cpu| target.expired(cpu))
            .unwrap_or(0)
    }
}

impl<T: CpuTimer> Drop for CpuTimers<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants these are timers. All have been stopped: users stop each one that they start,
        // when its CPU goes offline.
        unsafe { free(self.raw) };
    }
}

type Expired = unsafe extern "C" fn(*const c_void, c_uint) -> c_ulong;

extern "C" {
    // From `cpu_timer.c`.
    #[link_name = "rust_cpu_timers_new"]
    fn new(
        deferrable: bool,
        delay: Jiffies,
        expired: Expired,
        context: *const c_void,
    ) -> *mut c_void;
    #[link_name = "rust_cpu_timers_free"]
    fn free(this: *mut c_void);
    #[link_name = "rust_cpu_timer_start"]
    fn start(this: *mut c_void);
    #[link_name = "rust_cpu_timer_arm"]
    fn arm(this: *mut c_void);
    #[link_name = "rust_cpu_timer_arm_by_interrupt"]
    fn arm_by_interrupt(this: *mut c_void);
    #[link_name = "rust_cpu_timer_stop"]
    fn stop(this: *mut c_void);
}
