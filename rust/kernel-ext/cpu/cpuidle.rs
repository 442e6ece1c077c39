// SPDX-License-Identifier: GPL-2.0

//! Cpuidle drivers.
//!
//! C headers: [`include/linux/cpuidle.h`](srctree/include/linux/cpuidle.h),
//! [`include/linux/sched/idle.h`](srctree/include/linux/sched/idle.h)
//!
//! # Concurrency
//!
//! A CPU idles in its idle task, and leaves [`IdleDriver::enter`] before it runs another task. A
//! thread that is bound to the CPU adds and removes its device. So after a device has been removed,
//! its CPU is not in `enter`, and does not call it again.

use core::arch::asm;
use kernel::{
    bindings,
    cpu::CpuId,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_char,
        c_int,
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    processor::cpu_relax,
    sync::Arc, //
};

use crate::port_io::Port;

/// A cpuidle driver with one state.
pub trait IdleDriver: Send + Sync + 'static {
    /// The name of the driver, of 15 bytes at most.
    const NAME: &'static CStr;

    /// The description of the state, of 31 bytes at most.
    const DESCRIPTION: &'static CStr;

    /// Idles once. Before each call the idle loop checks that there is no work.
    ///
    /// Called with interrupts off, and must return with interrupts off. If interrupts were on
    /// meanwhile, this must return before the CPU sleeps, as their handlers may have left work to the
    /// idle loop. RCU is not watching: nothing may be called that uses RCU, takes a lock, or is
    /// traced.
    fn enter(&self, idle: &Idle);
}

/// The registration of this kernel's cpuidle driver. CPUs without a device idle as before.
///
/// # Invariants
///
/// `raw` came from `rust_cpuidle_register()`, with `driver` as its context.
pub struct Registration<T: IdleDriver> {
    raw: *mut c_void,
    _driver: Arc<T>,
}

// SAFETY: The functions of cpuidle take their own locks.
unsafe impl<T: IdleDriver> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: IdleDriver> Sync for Registration<T> {}

/// The reason why a driver was not registered.
pub enum Refusal {
    /// The kernel's command line has `idle=`.
    Overridden,
    /// Cpuidle is disabled, as by `cpuidle.off=1` on the kernel's command line.
    Off,
    /// There is a driver already, of this name.
    Taken(&'static CStr),
    /// The registration failed.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl<T: IdleDriver> Registration<T> {
    /// Registers `driver`. May sleep.
    pub fn register(driver: Arc<T>) -> Result<Self, Refusal> {
        // SAFETY: It reads a variable that is set at boot.
        if unsafe { is_overridden() } {
            return Err(Refusal::Overridden);
        }
        // SAFETY: The strings are static. The driver stays where it is until it is unregistered.
        let registered = from_err_ptr(unsafe {
            register(
                T::NAME.as_char_ptr(),
                T::DESCRIPTION.as_char_ptr(),
                Self::enter,
                (&raw const *driver).cast(),
            )
        });

        match registered {
            // INVARIANT: Just registered.
            Ok(raw) => Ok(Self {
                raw,
                _driver: driver,
            }),
            Err(ENODEV) => Err(Refusal::Off),
            Err(EBUSY) => Err(Refusal::Taken(current_driver().unwrap_or(c"another"))),
            Err(err) => Err(Refusal::Failed(err)),
        }
    }

    /// Makes the current CPU idle by this driver. In a thread that is bound to the CPU.
    pub fn add(&self, cpu: CpuId) -> Result {
        // SAFETY: By the type invariants the driver is registered.
        to_result(unsafe { add(self.raw, cpu.as_u32()) })
    }

    /// Undoes [`Registration::add`] for the current CPU. In a thread that is bound to the CPU.
    pub fn remove(&self, cpu: CpuId) {
        // SAFETY: By the type invariants the driver is registered.
        unsafe { remove(self.raw, cpu.as_u32()) };
    }

    /// # Safety
    ///
    /// Must only be called by the driver.
    // In the section of its callers and callees: after an exit an idle CPU has few pages in its TLB.
    #[link_section = ".cpuidle.text"]
    unsafe extern "C" fn enter(context: *const c_void, cpu: c_uint) {
        // SAFETY: The driver's context is a `T` that lives as long as it is registered.
        let driver = unsafe { &*context.cast::<T>() };

        if let Some(cpu) = CpuId::from_u32(cpu) {
            driver.enter(&Idle { cpu });
        }
    }
}

impl<T: IdleDriver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered. No CPU has a device any more: users remove
        // those that they add.
        unsafe { unregister(self.raw) };
    }
}

fn current_driver() -> Option<&'static CStr> {
    // SAFETY: A registered driver keeps its name, and the kernel's own drivers are never unregistered.
    unsafe {
        let name = current_driver_name();

        (!name.is_null()).then(|| CStr::from_char_ptr(name))
    }
}

/// A CPU in [`IdleDriver::enter`].
pub struct Idle {
    cpu: CpuId,
}

impl Idle {
    /// Returns the CPU.
    #[inline]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Returns a number that changes whenever the CPU has run another task.
    #[inline]
    pub fn period(&self) -> u64 {
        // SAFETY: It reads counters of the current task, which is the idle task.
        unsafe { current_switches() as u64 }
    }

    /// Makes the idle loop run the functions that other CPUs have queued for this one.
    #[inline]
    pub fn run_queued_calls(&self) {
        // The idle loop does that when it ends.
        // SAFETY: It sets a flag of the current task, as a wake-up does.
        unsafe { set_current_need_resched() };
    }

    /// Interrupts this CPU, once interrupts are on, by a vector of [devices](crate::ipi::is_of_devices).
    pub fn interrupt_self(&self, vector: u8) {
        // SAFETY: Callers pass vectors of devices, which do no more than interrupt.
        unsafe { apic_send_self(vector) };
    }

    /// Polls with interrupts on until there is work, `until` returns true, or `ns` have passed.
    ///
    /// The scheduler does not interrupt the CPU for work meanwhile (`TIF_POLLING_NRFLAG`). Returns with
    /// interrupts off.
    #[inline]
    pub fn poll(&self, ns: u64, mut until: impl FnMut() -> bool) -> PollEnd {
        // SAFETY: It sets a flag of the current task, which is the idle task. It is reset below.
        let end = if unsafe { current_set_polling_and_test() } {
            PollEnd::Work
        } else {
            // SAFETY: The idle loop allows interrupts here.
            unsafe { asm!("sti", options(nostack)) };
            let end = Self::poll_until(ns, &mut until);
            // SAFETY: As they were before.
            unsafe { asm!("cli", options(nostack)) };
            end
        };
        // SAFETY: As above. It has the barrier between clearing the flag and the caller's next check.
        unsafe { current_clr_polling() };
        end
    }

    #[inline]
    fn poll_until(ns: u64, until: &mut impl FnMut() -> bool) -> PollEnd {
        /// Reading the clock takes longer than the other checks.
        const CHECKS_PER_CLOCK: u32 = 16;

        // SAFETY: The clock can be read in any context.
        let start = unsafe { sched_clock() };
        loop {
            for _ in 0..CHECKS_PER_CLOCK {
                if until() {
                    return PollEnd::Found;
                }
                // SAFETY: It reads a flag of the current task.
                if unsafe { tif_need_resched() } {
                    return PollEnd::Work;
                }
                cpu_relax();
            }
            // SAFETY: As above.
            if unsafe { sched_clock() }.wrapping_sub(start) >= ns {
                return PollEnd::Expired;
            }
        }
    }

    /// Writes to a port as with HLT: interrupts go on just before, and are off afterwards.
    #[inline]
    pub fn write_port(&self, port: Port<'_>, value: u32) {
        // SAFETY: A `Port` may be written. Interrupts are allowed here; after `sti`, the first one
        // comes after the write.
        unsafe {
            asm!("sti", "out dx, eax", "cli", in("dx") port.number(), in("eax") value,
                options(nostack));
        }
    }

    /// Sleeps until there is an interrupt, by the kernel's idle routine.
    #[inline]
    pub fn halt(&self) {
        // SAFETY: Interrupts are off, and are off afterwards.
        unsafe { bindings::arch_cpu_idle() };
    }
}

/// The reason why [`Idle::poll`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollEnd {
    /// `until` returned true.
    Found,
    /// The idle task must reschedule.
    Work,
    /// The time is over.
    Expired,
}

type Enter = unsafe extern "C" fn(*const c_void, c_uint);

extern "C" {
    // From `cpuidle_driver.c`.
    #[link_name = "rust_cpuidle_register"]
    fn register(
        name: *const c_char,
        description: *const c_char,
        enter: Enter,
        context: *const c_void,
    ) -> *mut c_void;
    #[link_name = "rust_cpuidle_unregister"]
    fn unregister(this: *mut c_void);
    #[link_name = "rust_cpuidle_add"]
    fn add(this: *mut c_void, cpu: c_uint) -> c_int;
    #[link_name = "rust_cpuidle_remove"]
    fn remove(this: *mut c_void, cpu: c_uint);
    #[link_name = "rust_cpuidle_current_driver"]
    fn current_driver_name() -> *const c_char;
    #[link_name = "rust_cpuidle_is_overridden"]
    fn is_overridden() -> bool;
    #[link_name = "rust_helper_current_set_polling_and_test"]
    fn current_set_polling_and_test() -> bool;
    #[link_name = "rust_helper_current_clr_polling"]
    fn current_clr_polling();
    #[link_name = "rust_helper_tif_need_resched"]
    fn tif_need_resched() -> bool;
    #[link_name = "rust_helper_set_current_need_resched"]
    fn set_current_need_resched();
    #[link_name = "rust_helper_current_switches"]
    fn current_switches() -> c_ulong;
    #[link_name = "rust_helper_apic_send_self"]
    fn apic_send_self(vector: u8);
    // From `include/linux/sched/clock.h`.
    fn sched_clock() -> u64;
}
