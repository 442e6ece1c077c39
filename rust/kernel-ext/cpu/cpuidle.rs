// SPDX-License-Identifier: GPL-2.0

//! What a CPU does when it has nothing to do.
//!
//! C headers: [`include/linux/cpuidle.h`](srctree/include/linux/cpuidle.h),
//! [`include/linux/sched/idle.h`](srctree/include/linux/sched/idle.h)
//!
//! # Concurrency
//!
//! A CPU idles in its idle task, and leaves [`IdleDriver::enter`] before it runs another. Its device
//! is added and removed by a thread that is bound to this CPU. So when a device has been removed, its
//! CPU is not inside, and does not come back.

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

/// How idle CPUs idle.
pub trait IdleDriver: Send + Sync + 'static {
    /// The name of the driver, of 15 bytes at most.
    const NAME: &'static CStr;

    /// What it does, in 31 bytes at most.
    const DESCRIPTION: &'static CStr;

    /// Idles once. The idle loop sees to it that there is nothing to do before each call.
    ///
    /// Called with interrupts off, and this must return with interrupts off. Whoever has had
    /// interrupts on must return before the CPU sleeps: their handlers may have left work to the
    /// idle loop. RCU does not watch, so that nothing may be called that uses it, takes a lock or is
    /// traced.
    fn enter(&self, idle: &Idle);
}

/// The driver of this kernel's idle CPUs. Those to which no device has been added idle as before.
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

/// Why there is no registration.
pub enum Refusal {
    /// The kernel's command line says how CPUs idle.
    Overridden,
    /// The kernel's command line says that there is to be no cpuidle.
    Off,
    /// There is a driver already, of this name.
    Taken(&'static CStr),
    /// Something has failed.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl<T: IdleDriver> Registration<T> {
    /// Makes `driver` the kernel's. May sleep.
    pub fn register(driver: Arc<T>) -> Result<Self, Refusal> {
        // SAFETY: It reads a variable of the kernel's boot.
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

    /// Lets the current CPU idle by this driver. In a thread that is bound to it.
    pub fn add(&self, cpu: CpuId) -> Result {
        // SAFETY: By the type invariants the driver is registered.
        to_result(unsafe { add(self.raw, cpu.as_u32()) })
    }

    /// Lets the current CPU, to which [`Registration::add`] has been applied, idle as before. In a
    /// thread that is bound to it.
    pub fn remove(&self, cpu: CpuId) {
        // SAFETY: By the type invariants the driver is registered.
        unsafe { remove(self.raw, cpu.as_u32()) };
    }

    /// # Safety
    ///
    /// To be called by the driver alone.
    // Next to what it calls and to what calls it: an idle CPU that an exit has woken finds few pages in its TLB.
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
        // SAFETY: By the type invariants it is registered. No CPU has a device any more, as whoever
        // adds them removes them.
        unsafe { unregister(self.raw) };
    }
}

fn current_driver() -> Option<&'static CStr> {
    // SAFETY: It gives the driver's name, which a driver that is registered keeps; those of this
    // kernel never go.
    unsafe {
        let name = current_driver_name();

        (!name.is_null()).then(|| CStr::from_char_ptr(name))
    }
}

/// A CPU that idles, in [`IdleDriver::enter`].
pub struct Idle {
    cpu: CpuId,
}

impl Idle {
    /// Returns the CPU.
    #[inline]
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Returns a number that changes whenever the CPU has done something else than to idle.
    #[inline]
    pub fn period(&self) -> u64 {
        // SAFETY: It reads counters of the current task, which is the idle task.
        unsafe { current_switches() as u64 }
    }

    /// Returns whether there is something to do.
    #[inline]
    pub fn has_work(&self) -> bool {
        // SAFETY: It reads a flag of the current task.
        unsafe { tif_need_resched() }
    }

    /// Makes the idle loop run what others have queued for this CPU to call.
    #[inline]
    pub fn run_queued_calls(&self) {
        // The idle loop does so whenever it is left.
        // SAFETY: It sets a flag of the current task, as others do to make it look.
        unsafe { set_current_need_resched() };
    }

    /// Interrupts the CPU itself, once interrupts are on.
    pub fn interrupt_self(&self, vector: u8) {
        // SAFETY: Vectors from 16 on do no more than to interrupt; others, the APIC refuses.
        unsafe { apic_send_self(vector) };
    }

    /// Looks with interrupts on until there is something to do, or `until` says so, or `ns` have
    /// passed. Whoever has work for the CPU does not interrupt it meanwhile. Returns with interrupts
    /// off.
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
        // SAFETY: As above. It has the barrier between this and whatever is looked at next.
        unsafe { current_clr_polling() };
        end
    }

    #[inline]
    fn poll_until(ns: u64, until: &mut impl FnMut() -> bool) -> PollEnd {
        /// The clock takes longer to read than the rest.
        const LOOKS_PER_CLOCK: u32 = 16;

        // SAFETY: The clock can be read in any context.
        let start = unsafe { sched_clock() };
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
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

    /// Writes to a port as if that was a HLT: interrupts go on just before, and are off afterwards.
    #[inline]
    pub fn write_port(&self, port: Port<'_>, value: u32) {
        // SAFETY: It writes a port that whoever gave it may write. Interrupts are allowed here; the
        // first that can come comes after the write.
        unsafe {
            asm!("sti", "out dx, eax", "cli", in("dx") port.number(), in("eax") value,
                options(nostack));
        }
    }

    /// Sleeps until there is an interrupt, the way of this CPU.
    #[inline]
    pub fn halt(&self) {
        // SAFETY: Interrupts are off, and are off afterwards.
        unsafe { bindings::arch_cpu_idle() };
    }
}

/// What has ended [`Idle::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollEnd {
    /// What the caller looks for.
    Found,
    /// There is something to do.
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
