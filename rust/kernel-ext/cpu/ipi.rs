// SPDX-License-Identifier: GPL-2.0

//! Takeover of the functions by which CPUs interrupt each other.
//!
//! C header: [`arch/x86/include/asm/smp.h`](srctree/arch/x86/include/asm/smp.h)
//!
//! The kernel calls three functions of `smp_ops` to send the interrupts of its scheduler and of
//! `smp_call_function()`. A [`Takeover`] replaces them by functions that ask an [`IpiSender`] for each
//! target, and send the rest by those that they replaced.
//!
//! Interrupts that stop or wake a CPU (NMI, reboot, INIT) use other functions, which stay.
//!
//! # Concurrency
//!
//! *Context.* The kernel calls the functions of `smp_ops` with preemption off: the scheduler under a
//! run queue's lock, `smp_call_function()` between `get_cpu()` and `put_cpu()`, KVM likewise.
//! Interrupts may be on, and an interrupt's handler may send as well, so calls nest. NMIs do not send
//! by these functions: `irq_work` and the watchdogs use the APIC directly.
//!
//! *Entry.* `CURRENT` is written before the functions (release), and reset after all CPUs have left
//! them. A CPU loads a function before it loads `CURRENT`, and x86 keeps that order.
//!
//! *Exit.* Another module may have replaced our functions since, and calls them then. So each is
//! restored only if it is ours, and the takeover goes on until all three have been. That leaves CPUs
//! that have loaded a pointer and not called it yet, or are inside. All of them have preemption off,
//! so `synchronize_rcu()` waits for them, except for a CPU that is going offline: it sends its last
//! interrupt (`cpuhp_report_idle_dead()`) when RCU no longer watches it. So the functions are restored
//! with CPU hotplug held off. A CPU that went offline before is gone, and one that goes later finds
//! the old functions.
//!
//! *Native interrupts.* [`send_native`] uses `CURRENT` without being called by the kernel. Its
//! callers have interrupts off, and a second `synchronize_rcu()` waits for them.
//!
//! *Scratch masks.* There is one per CPU, used on that CPU only, with interrupts off.

use core::{
    cell::UnsafeCell,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::{
        Cpumask,
        CpumaskVar, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu::synchronize_rcu, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// An interrupt that one CPU sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipi {
    /// The scheduler wants the target to check its run queue.
    Reschedule,
    /// Several CPUs, the target among them, have functions to call in their queues.
    CallFunction,
    /// The target has functions to call in its queue.
    CallFunctionSingle,
}

impl Ipi {
    /// All interrupts.
    pub const ALL: [Self; 3] = [
        Self::Reschedule,
        Self::CallFunction,
        Self::CallFunctionSingle,
    ];

    /// Returns the interrupt's vector.
    pub const fn vector(self) -> u8 {
        // All are below 256.
        (match self {
            Self::Reschedule => bindings::RESCHEDULE_VECTOR,
            Self::CallFunction => bindings::CALL_FUNCTION_VECTOR,
            Self::CallFunctionSingle => bindings::CALL_FUNCTION_SINGLE_VECTOR,
        }) as u8
    }
}

/// The outcome of [`IpiSender::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an interrupt that is not sent is lost"]
pub enum Sent {
    /// The target will take the interrupt.
    Done,
    /// The target will take the interrupt as soon as the host runs it, and is not idle.
    Waiting,
    /// The caller must send the interrupt natively.
    Native,
}

/// Sends interrupts in place of the kernel.
pub trait IpiSender: Send + Sync + 'static {
    /// Sends an interrupt from the current CPU to another.
    ///
    /// Called with preemption off, in any context but NMIs, and with locks of the scheduler held: this
    /// must not take locks, wake tasks, or wait. What the caller has written before must be visible to
    /// the interrupt's handler.
    fn send(&self, ipi: Ipi, target: CpuId) -> Sent;

    /// Called after a multicast for which at least `target` is [`Sent::Waiting`], in the same context.
    /// The sender probably waits for the target.
    fn multicast_waits_for(&self, target: CpuId);

    /// Called in process context when the end of a [`Takeover`] must wait, as another module has
    /// replaced its functions since and still calls them.
    fn is_still_called(&self);
}

type SendToCpu = unsafe extern "C" fn(c_int);
type SendToMask = unsafe extern "C" fn(*const bindings::cpumask);

/// The functions of `smp_ops` that send.
#[derive(Clone, Copy)]
struct Functions {
    reschedule: SendToCpu,
    call_function: SendToMask,
    call_function_single: SendToCpu,
}

/// The current takeover's `Installed<T>`, or null. It begins with the functions that were replaced.
static CURRENT: Atomic<*mut c_void> = Atomic::new(null_mut());

/// A takeover of this kernel's interprocessor interrupts, until it is dropped.
///
/// # Invariants
///
/// `smp_ops` has the functions of this type, and `CURRENT` is `installed`.
pub struct Takeover<T: IpiSender> {
    installed: KBox<Installed<T>>,
}

#[repr(C)]
struct Installed<T> {
    previous: Functions,
    sender: T,
    scratch: KVec<Scratch>,
}

/// A mask for the use of one CPU.
struct Scratch(UnsafeCell<CpumaskVar>);

// SAFETY: It owns its mask, which any thread may free.
unsafe impl Send for Scratch {}
// SAFETY: Only its CPU uses it, see the module's documentation.
unsafe impl Sync for Scratch {}

impl<T: IpiSender> Takeover<T> {
    /// Replaces the kernel's functions by those that ask `sender`. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` if this module has a takeover already, `ENODEV` if this kernel has no such functions.
    pub fn begin(sender: T) -> Result<Self> {
        let mut scratch = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            let mask = CpumaskVar::new_zero(GFP_KERNEL)?;
            scratch.push(Scratch(UnsafeCell::new(mask)), GFP_KERNEL)?;
        }
        let previous = Functions::current().ok_or(ENODEV)?;
        let installed = KBox::new(
            Installed {
                previous,
                sender,
                scratch,
            },
            GFP_KERNEL,
        )?;

        let pointer = (&raw const *installed).cast_mut().cast();
        CURRENT
            .cmpxchg(null_mut(), pointer, Full)
            .map_err(|_| EBUSY)?;
        // INVARIANT: `CURRENT` has just been set.
        Functions::of::<T>().install();
        Ok(Self { installed })
    }
}

/// The time between attempts to end a takeover.
const RETRY: Delta = Delta::from_millis(100);

impl<T: IpiSender> Drop for Takeover<T> {
    /// Restores the previous functions, once no other module calls ours. May sleep.
    fn drop(&mut self) {
        let mut restored = [false; Functions::COUNT];
        let mut notified = false;

        while !self.restore(&mut restored) {
            if !notified {
                self.installed.sender.is_still_called();
                notified = true;
            }
            fsleep(RETRY);
        }

        // For callers of our functions, which have preemption off, see the module's documentation.
        synchronize_rcu();
        CURRENT.store(null_mut(), Release);
        // For callers of `send_native`, which have interrupts off.
        synchronize_rcu();
    }
}

impl<T: IpiSender> Takeover<T> {
    /// Restores the previous functions in the place of ours, notes in `restored` which ones have been, and returns whether
    /// all have.
    fn restore(&self, restored: &mut [bool; Functions::COUNT]) -> bool {
        // SAFETY: This may sleep, and the lock is released below.
        unsafe { bindings::cpus_read_lock() };
        self.installed
            .previous
            .replace(&Functions::of::<T>(), restored);
        // SAFETY: As above.
        unsafe { bindings::cpus_read_unlock() };
        restored.iter().all(|restored| *restored)
    }
}

/// `ISA_IRQ_VECTOR(PIC_CASCADE_IR)`. Its handler sends no EOI, so interrupts of lower priority would wait forever.
const CASCADE_VECTOR: u32 = ((bindings::FIRST_EXTERNAL_VECTOR + 16) & !15) + 2;

/// Returns whether the kernel gives a vector to devices. The others are its own, or the CPU's.
pub const fn is_of_devices(vector: u8) -> bool {
    let vector = vector as u32;

    vector >= bindings::FIRST_EXTERNAL_VECTOR
        && vector < bindings::FIRST_SYSTEM_VECTOR
        && vector != bindings::IA32_SYSCALL_VECTOR
        && vector != CASCADE_VECTOR
}

/// Sends a vector to an online CPU, perhaps the current one, as if there was no [`Takeover`]. Returns whether it has sent
/// it: only vectors of `smp_ops` and of devices can be sent.
///
/// Any context but NMIs, with interrupts off.
pub fn send_native(vector: u8, target: CpuId, _irq: &LocalInterruptDisabled) -> bool {
    let current = CURRENT.load(Relaxed);
    let functions = match current.is_null() {
        true => Functions::current(),
        // SAFETY: An `Installed` begins with the functions, and is freed only after interrupts have been on, see `drop`.
        false => Some(unsafe { *current.cast::<Functions>() }),
    };
    let Some(functions) = functions else {
        return false;
    };
    let number = target.as_u32();

    // SAFETY: The kernel calls the functions in the same way, with IDs of online CPUs. If they are another module's, that
    // is unloaded only after interrupts have been on. The APIC is only sent vectors of devices, which do no more than
    // interrupt.
    unsafe {
        match u32::from(vector) {
            bindings::RESCHEDULE_VECTOR => (functions.reschedule)(number as c_int),
            // The handlers of both do the same.
            bindings::CALL_FUNCTION_VECTOR | bindings::CALL_FUNCTION_SINGLE_VECTOR => {
                (functions.call_function_single)(number as c_int);
            }
            _ if is_of_devices(vector) => crate::bindings::apic_send(number, vector),
            _ => return false,
        }
    }
    true
}

impl Functions {
    const COUNT: usize = 3;

    /// Returns the functions that the kernel uses.
    fn current() -> Option<Self> {
        // SAFETY: The fields are initialised at boot. While modules are loaded, only takeovers write
        // them, one word at a time.
        unsafe {
            Some(Self {
                reschedule: bindings::smp_ops.smp_send_reschedule?,
                call_function: bindings::smp_ops.send_call_func_ipi?,
                call_function_single: bindings::smp_ops.send_call_func_single_ipi?,
            })
        }
    }

    /// Returns the functions that ask a `T`.
    fn of<T: IpiSender>() -> Self {
        Self {
            reschedule: reschedule::<T>,
            call_function: call_function::<T>,
            call_function_single: call_function_single::<T>,
        }
    }

    /// Returns the fields of `smp_ops`.
    fn fields() -> [&'static Atomic<usize>; Self::COUNT] {
        // SAFETY: The fields are as large as pointers, aligned, and live forever. CPUs read each by
        // one access.
        unsafe {
            [
                Atomic::<usize>::from_ptr((&raw mut bindings::smp_ops.smp_send_reschedule).cast()),
                Atomic::<usize>::from_ptr((&raw mut bindings::smp_ops.send_call_func_ipi).cast()),
                Atomic::<usize>::from_ptr(
                    (&raw mut bindings::smp_ops.send_call_func_single_ipi).cast(),
                ),
            ]
        }
    }

    /// Returns these functions, in the order of the fields.
    fn values(&self) -> [usize; Self::COUNT] {
        [
            self.reschedule as usize,
            self.call_function as usize,
            self.call_function_single as usize,
        ]
    }

    /// Makes the kernel use these functions. CPUs may still be in the previous ones.
    fn install(&self) {
        for (field, value) in Self::fields().into_iter().zip(self.values()) {
            field.store(value, Release);
        }
    }

    /// Makes the kernel use each of these functions that is not `done`, if it uses that of `others`. Then it is done.
    fn replace(&self, others: &Self, done: &mut [bool; Self::COUNT]) {
        for (((field, new), old), done) in Self::fields()
            .into_iter()
            .zip(self.values())
            .zip(others.values())
            .zip(done)
        {
            // A field that is done may have been taken over since, by a module that does not know `others`.
            *done = *done || field.cmpxchg(old, new, Full).is_ok();
        }
    }
}

impl<T: IpiSender> Installed<T> {
    /// # Safety
    ///
    /// Must only be called by the functions of a [`Takeover<T>`].
    #[inline]
    unsafe fn current<'a>() -> &'a Self {
        // SAFETY: By the invariants of `Takeover` it is set before the functions are first called,
        // and it is freed after all have returned.
        unsafe { &*CURRENT.load(Relaxed).cast() }
    }

    /// Returns the scratch mask of the current CPU.
    fn scratch<'a>(&'a self, _irq: &'a LocalInterruptDisabled) -> Option<&'a mut CpumaskVar> {
        let scratch = self.scratch.get(CpuId::current().as_u32() as usize)?;

        // SAFETY: Interrupts are off, so the CPU stays the same, and nothing else here runs on it:
        // NMIs do not send. The only user of the mask gets it once.
        Some(unsafe { &mut *scratch.0.get() })
    }
}

/// # Safety
///
/// Must only be called by the kernel, through `smp_ops`.
unsafe extern "C" fn reschedule<T: IpiSender>(cpu: c_int) {
    // SAFETY: By the safety requirements.
    let this = unsafe { Installed::<T>::current() };

    if sent_to(&this.sender, Ipi::Reschedule, cpu) == Sent::Native {
        // SAFETY: The call is passed on unchanged.
        unsafe { (this.previous.reschedule)(cpu) };
    }
}

/// # Safety
///
/// As for [`reschedule`].
unsafe extern "C" fn call_function_single<T: IpiSender>(cpu: c_int) {
    // SAFETY: By the safety requirements.
    let this = unsafe { Installed::<T>::current() };

    if sent_to(&this.sender, Ipi::CallFunctionSingle, cpu) == Sent::Native {
        // SAFETY: The call is passed on unchanged.
        unsafe { (this.previous.call_function_single)(cpu) };
    }
}

#[inline]
fn sent_to<T: IpiSender>(sender: &T, ipi: Ipi, cpu: c_int) -> Sent {
    CpuId::from_i32(cpu).map_or(Sent::Native, |cpu| sender.send(ipi, cpu))
}

/// # Safety
///
/// As for [`reschedule`], with a mask that does not change.
unsafe extern "C" fn call_function<T: IpiSender>(mask: *const bindings::cpumask) {
    // SAFETY: By the safety requirements.
    let this = unsafe { Installed::<T>::current() };

    // SAFETY: By the safety requirements.
    match unsafe { this.send_to_some(mask) } {
        // With interrupts as they were: a vCPU may be preempted when it sends natively, and if interrupts were off, one
        // that has come by then would cost another exit.
        // SAFETY: The call is passed on unchanged.
        Remaining::All => unsafe { (this.previous.call_function)(mask) },
        Remaining::None(Some(cpu)) => this.sender.multicast_waits_for(cpu),
        Remaining::None(None) => {}
    }
}

/// The part of a multicast that is left to send.
enum Remaining {
    /// All of it.
    All,
    /// Nothing. The CPU, if any, is [`Sent::Waiting`], and others may be.
    None(Option<CpuId>),
}

impl<T: IpiSender> Installed<T> {
    /// Sends a call function interrupt to the CPUs in a mask, unless all of them need a native one.
    ///
    /// # Safety
    ///
    /// The mask must be valid, and must not change meanwhile.
    unsafe fn send_to_some(&self, mask: *const bindings::cpumask) -> Remaining {
        let irq = local_interrupt_disable();
        let Some(native) = self.scratch(&irq) else {
            return Remaining::All;
        };
        let mut any_sent = false;
        let mut waiting = None;

        // SAFETY: By the safety requirements.
        for cpu in unsafe { members(mask) } {
            match self.sender.send(Ipi::CallFunction, cpu) {
                // The common case.
                Sent::Native => continue,
                Sent::Waiting => waiting = Some(cpu),
                Sent::Done => {}
            }
            if !any_sent {
                // SAFETY: As above.
                unsafe { Cpumask::from_raw(mask) }.copy(native);
                any_sent = true;
            }
            native.clear(cpu);
        }
        if !any_sent {
            return Remaining::All;
        }
        if !native.empty() {
            // SAFETY: The mask has some of the CPUs of the kernel's call.
            unsafe { (self.previous.call_function)(Cpumask::as_raw(native)) };
        }
        Remaining::None(waiting)
    }
}

/// Returns the CPUs in a mask.
///
/// # Safety
///
/// The mask must be valid, and must not change while the result is used.
unsafe fn members(mask: *const bindings::cpumask) -> impl Iterator<Item = CpuId> {
    let words = nr_cpu_ids().div_ceil(u64::BITS);

    (0..words).flat_map(move |index| {
        // SAFETY: A mask has a bit for each CPU ID, in words of 64 bits. Not all words of its type
        // need be allocated.
        let mut word = unsafe {
            (&raw const (*mask).bits)
                .cast::<u64>()
                .add(index as usize)
                .read()
        };

        core::iter::from_fn(move || {
            let bit = word.trailing_zeros();

            // Clears the lowest bit.
            word &= word.wrapping_sub(1);
            (bit < u64::BITS).then_some(index * u64::BITS + bit)
        })
        .filter_map(CpuId::from_u32)
    })
}
