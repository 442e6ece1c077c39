// SPDX-License-Identifier: GPL-2.0

//! Taking over how CPUs interrupt each other.
//!
//! C header: [`arch/x86/include/asm/smp.h`](srctree/arch/x86/include/asm/smp.h)
//!
//! The kernel calls three functions of `smp_ops` to send the interrupts of its scheduler and of
//! `smp_call_function()`. A [`Takeover`] puts functions of its own in their place, and asks an
//! [`IpiSender`] about each target. What that leaves goes to the functions that were there before.
//!
//! Interrupts that stop or wake a CPU (NMI, reboot, INIT) take other ways and are not seen here.
//!
//! # Concurrency
//!
//! *Context.* The kernel calls the functions of `smp_ops` with preemption off: the scheduler under a
//! run queue's lock, `smp_call_function()` between `get_cpu()` and `put_cpu()`, KVM likewise.
//! Interrupts may be on, and an interrupt's handler may send as well, so that calls nest. NMIs do
//! not send by these functions: `irq_work` and the watchdogs talk to the APIC.
//!
//! *Entry.* [`CURRENT`] is written before the functions (release), and reset after all have left.
//! Whoever is called has loaded a function before it loads [`CURRENT`], and x86 keeps that order.
//!
//! *Exit.* Another module may have put functions of its own in place of ours since, and calls ours
//! then. So each function is restored only if it is ours, and until all three have been, the takeover
//! goes on. That leaves CPUs that have loaded a pointer and not called it yet, or are inside. All of
//! them have preemption off, so `synchronize_rcu()` waits for them, but for a CPU
//! that is going offline: it sends its last interrupt (`cpuhp_report_idle_dead()`) when RCU does not
//! watch it any more. So the functions are restored with CPU hotplug held off. A CPU that goes
//! before is gone, and one that goes after finds the old functions.
//!
//! *Around the takeover.* [`send_native`] uses what [`CURRENT`] has without being called by the
//! kernel. Its callers have interrupts off, and a second `synchronize_rcu()` waits for them.
//!
//! *Scratch masks.* There is one per CPU, used with interrupts off on that CPU only.

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

/// What one CPU sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipi {
    /// The scheduler wants the target to look at its run queue.
    Reschedule,
    /// There is something in the target's queue of functions to call, and in those of others.
    CallFunction,
    /// There is something in the target's queue of functions to call.
    CallFunctionSingle,
}

impl Ipi {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::Reschedule,
        Self::CallFunction,
        Self::CallFunctionSingle,
    ];

    /// The vector that the target takes it at.
    pub const fn vector(self) -> u8 {
        // All are below 256.
        (match self {
            Self::Reschedule => bindings::RESCHEDULE_VECTOR,
            Self::CallFunction => bindings::CALL_FUNCTION_VECTOR,
            Self::CallFunctionSingle => bindings::CALL_FUNCTION_SINGLE_VECTOR,
        }) as u8
    }
}

/// What has become of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an interrupt that nobody sends is lost"]
pub enum Sent {
    /// The target is going to take it.
    Done,
    /// The target is going to take it as soon as the host lets it run, and has work to do besides.
    Waiting,
    /// It has to be sent the platform's way.
    Native,
}

/// Who is asked first.
pub trait IpiSender: Send + Sync + 'static {
    /// Sends an interrupt from the current CPU to another.
    ///
    /// Called with preemption off, from any context but NMIs, and with locks of the scheduler held:
    /// this must take no lock, wake nobody, and wait for nobody. What the caller has written before
    /// must be visible to the interrupt's handler.
    fn send(&self, ipi: Ipi, target: CpuId) -> Sent;

    /// Called after a multicast of which at least `target` is [`Sent::Waiting`], in the same context.
    /// Whoever has sent that is probably going to wait for it.
    fn multicast_waits_for(&self, target: CpuId);

    /// Called when a [`Takeover`] is to end, and another that has begun since has not: it waits for that from now on. In
    /// process context.
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

/// The current takeover's `Installed<T>`, if there is one. It begins with the functions that were there before.
static CURRENT: Atomic<*mut c_void> = Atomic::new(null_mut());

/// A takeover of this kernel's interprocessor interrupts. Dropping it gives them back.
///
/// # Invariants
///
/// `smp_ops` has the functions of this type, and [`CURRENT`] is `installed`.
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

// SAFETY: It owns its mask, which may be freed by any thread.
unsafe impl Send for Scratch {}
// SAFETY: Only its CPU uses it, see the module's documentation.
unsafe impl Sync for Scratch {}

impl<T: IpiSender> Takeover<T> {
    /// Asks `sender` from now on. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` if this module has taken the interrupts over already, `ENODEV` if this kernel sends
    /// none.
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

/// How long the end of a takeover waits before it looks again whether it may end.
const RETRY: Delta = Delta::from_millis(100);

impl<T: IpiSender> Drop for Takeover<T> {
    /// Gives the interrupts back, as soon as no other has taken them over after this. May sleep.
    fn drop(&mut self) {
        let mut restored = [false; Functions::COUNT];
        let mut said = false;

        while !self.restore(&mut restored) {
            if !said {
                self.installed.sender.is_still_called();
                said = true;
            }
            fsleep(RETRY);
        }

        // Whoever has been called, or is going to be, has preemption off, see the module's
        // documentation.
        synchronize_rcu();
        CURRENT.store(null_mut(), Release);
        // As has `send_native`.
        synchronize_rcu();
    }
}

impl<T: IpiSender> Takeover<T> {
    /// Makes the kernel use the functions that were there before in place of ours. Notes in `restored` for which of them it
    /// does, and returns whether for all.
    fn restore(&self, restored: &mut [bool; Functions::COUNT]) -> bool {
        // SAFETY: This may sleep. Both calls belong together.
        unsafe { bindings::cpus_read_lock() };
        self.installed
            .previous
            .replace(&Functions::of::<T>(), restored);
        // SAFETY: As above.
        unsafe { bindings::cpus_read_unlock() };
        restored.iter().all(|restored| *restored)
    }
}

/// `ISA_IRQ_VECTOR(PIC_CASCADE_IR)`. Its handler does not tell the local APIC that it has ended, and what has a lower
/// priority would wait for that forever.
const CASCADE_VECTOR: u32 = ((bindings::FIRST_EXTERNAL_VECTOR + 16) & !15) + 2;

/// Returns whether a vector is one of those that the kernel gives to devices. Others are its own, or the CPU's.
pub const fn is_of_devices(vector: u8) -> bool {
    let vector = vector as u32;

    vector >= bindings::FIRST_EXTERNAL_VECTOR
        && vector < bindings::FIRST_SYSTEM_VECTOR
        && vector != bindings::IA32_SYSCALL_VECTOR
        && vector != CASCADE_VECTOR
}

/// Sends a vector to a CPU that is online, the current one perhaps, as if there was no [`Takeover`]. Returns whether it is
/// one that a CPU can be sent: those that CPUs send each other by `smp_ops`, and those that devices have.
///
/// Any context but NMIs, with interrupts off.
pub fn send_native(vector: u8, target: CpuId, _irq: &LocalInterruptDisabled) -> bool {
    let current = CURRENT.load(Relaxed);
    let functions = match current.is_null() {
        true => Functions::current(),
        // SAFETY: What is installed begins with the functions, and stays as long as interrupts are off.
        false => Some(unsafe { *current.cast::<Functions>() }),
    };
    let Some(functions) = functions else {
        return false;
    };
    let number = target.as_u32();

    // SAFETY: The kernel calls the functions as this does, with IDs of CPUs that are online. Their modules, if they are not
    // the kernel's, wait until interrupts are on before they go. The APIC is sent vectors of devices alone, which interrupt
    // and no more.
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

    /// Those that the kernel uses.
    fn current() -> Option<Self> {
        // SAFETY: The fields are initialised at boot. Nobody else writes them while modules are
        // loaded, or they would have to do as we do.
        unsafe {
            Some(Self {
                reschedule: bindings::smp_ops.smp_send_reschedule?,
                call_function: bindings::smp_ops.send_call_func_ipi?,
                call_function_single: bindings::smp_ops.send_call_func_single_ipi?,
            })
        }
    }

    /// Those that ask a `T`.
    fn of<T: IpiSender>() -> Self {
        Self {
            reschedule: reschedule::<T>,
            call_function: call_function::<T>,
            call_function_single: call_function_single::<T>,
        }
    }

    /// The fields of `smp_ops`, which CPUs read one by one.
    fn fields() -> [&'static Atomic<usize>; Self::COUNT] {
        // SAFETY: The fields are as large as pointers, aligned, and live forever. CPUs read each of
        // them at once.
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

    /// These, in the order of the fields.
    fn values(&self) -> [usize; Self::COUNT] {
        [
            self.reschedule as usize,
            self.call_function as usize,
            self.call_function_single as usize,
        ]
    }

    /// Makes the kernel use these. CPUs may go on using those before.
    fn install(&self) {
        for (field, value) in Self::fields().into_iter().zip(self.values()) {
            field.store(value, Release);
        }
    }

    /// Makes the kernel use each of these that is not `done` yet, where it uses that of `others`. Those are done then.
    fn replace(&self, others: &Self, done: &mut [bool; Self::COUNT]) {
        for (((field, new), old), done) in Self::fields()
            .into_iter()
            .zip(self.values())
            .zip(others.values())
            .zip(done)
        {
            // What is done may have been taken over since, by a module that does not know of `others`.
            *done = *done || field.cmpxchg(old, new, Full).is_ok();
        }
    }
}

impl<T: IpiSender> Installed<T> {
    /// # Safety
    ///
    /// To be called by the functions of a [`Takeover<T>`] alone.
    #[inline]
    unsafe fn current<'a>() -> &'a Self {
        // SAFETY: By the invariants of `Takeover` it is there from before the first call of its
        // functions, and it is freed when all have returned.
        unsafe { &*CURRENT.load(Relaxed).cast() }
    }

    /// Returns the scratch mask of the current CPU.
    fn scratch<'a>(&'a self, _irq: &'a LocalInterruptDisabled) -> Option<&'a mut CpumaskVar> {
        let scratch = self.scratch.get(CpuId::current().as_u32() as usize)?;

        // SAFETY: Interrupts are off, so this CPU stays, and nothing else here runs on it: NMIs do
        // not send. The mask is used in one place, which asks for it once.
        Some(unsafe { &mut *scratch.0.get() })
    }
}

/// # Safety
///
/// To be called by the kernel alone, through `smp_ops`.
unsafe extern "C" fn reschedule<T: IpiSender>(cpu: c_int) {
    // SAFETY: As this function's requirements.
    let this = unsafe { Installed::<T>::current() };

    if sent_to(&this.sender, Ipi::Reschedule, cpu) == Sent::Native {
        // SAFETY: The call is passed on as it is.
        unsafe { (this.previous.reschedule)(cpu) };
    }
}

/// # Safety
///
/// As for [`reschedule`].
unsafe extern "C" fn call_function_single<T: IpiSender>(cpu: c_int) {
    // SAFETY: As this function's requirements.
    let this = unsafe { Installed::<T>::current() };

    if sent_to(&this.sender, Ipi::CallFunctionSingle, cpu) == Sent::Native {
        // SAFETY: The call is passed on as it is.
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
    // SAFETY: As this function's requirements.
    let this = unsafe { Installed::<T>::current() };

    // SAFETY: As this function's requirements.
    match unsafe { this.send_to_some(mask) } {
        // With interrupts as they were: a vCPU that sends natively may lose its CPU, and an interrupt that has come by
        // then would cost it an exit more if it had to wait.
        // SAFETY: The call is passed on as it is.
        Remaining::All => unsafe { (this.previous.call_function)(mask) },
        Remaining::None(Some(cpu)) => this.sender.multicast_waits_for(cpu),
        Remaining::None(None) => {}
    }
}

/// What is left of a multicast.
enum Remaining {
    /// All of it.
    All,
    /// Nothing. This CPU is [`Sent::Waiting`], and perhaps others.
    None(Option<CpuId>),
}

impl<T: IpiSender> Installed<T> {
    /// Sends a call function to the CPUs in a mask, unless all of them have to be sent it natively.
    ///
    /// # Safety
    ///
    /// The mask must be valid, and not change meanwhile.
    unsafe fn send_to_some(&self, mask: *const bindings::cpumask) -> Remaining {
        let irq = local_interrupt_disable();
        let Some(native) = self.scratch(&irq) else {
            return Remaining::All;
        };
        let mut any_sent = false;
        let mut waiting = None;

        // SAFETY: The caller gives a valid mask.
        for cpu in unsafe { members(mask) } {
            match self.sender.send(Ipi::CallFunction, cpu) {
                // Mostly all are.
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
            // SAFETY: A mask of some of the CPUs that the caller wants to be sent to.
            unsafe { (self.previous.call_function)(Cpumask::as_raw(native)) };
        }
        Remaining::None(waiting)
    }
}

/// Returns the CPUs in a mask.
///
/// # Safety
///
/// The mask must be valid, and not change while the result is used.
unsafe fn members(mask: *const bindings::cpumask) -> impl Iterator<Item = CpuId> {
    let words = nr_cpu_ids().div_ceil(u64::BITS);

    (0..words).flat_map(move |index| {
        // SAFETY: A mask has a bit for each CPU ID, in words of 64 bits. Not all of those that its
        // type has need be there.
        let mut word = unsafe {
            (&raw const (*mask).bits)
                .cast::<u64>()
                .add(index as usize)
                .read()
        };

        core::iter::from_fn(move || {
            let bit = word.trailing_zeros();

            // Takes the lowest bit away.
            word &= word.wrapping_sub(1);
            (bit < u64::BITS).then_some(index * u64::BITS + bit)
        })
        .filter_map(CpuId::from_u32)
    })
}
