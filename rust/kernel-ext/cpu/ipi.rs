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
//! *Exit.* Restoring the functions leaves CPUs that have loaded a pointer and not called it yet, or
//! are inside. All of them have preemption off, so `synchronize_rcu()` waits for them, but for a CPU
//! that is going offline: it sends its last interrupt (`cpuhp_report_idle_dead()`) when RCU does not
//! watch it any more. So the functions are restored with CPU hotplug held off. A CPU that goes
//! before is gone, and one that goes after finds the old functions.
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

/// The current takeover's `Installed<T>`, if there is one.
static CURRENT: Atomic<*mut c_void> = Atomic::new(null_mut());

/// A takeover of this kernel's interprocessor interrupts. Dropping it gives them back.
///
/// # Invariants
///
/// `smp_ops` has the functions of this type, and [`CURRENT`] is `installed`.
pub struct Takeover<T: IpiSender> {
    installed: KBox<Installed<T>>,
}

struct Installed<T> {
    sender: T,
    previous: Functions,
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
                sender,
                previous,
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

    /// Returns whether the interrupts are still ours. If somebody else has taken them over since,
    /// they lose them when this ends.
    pub fn is_in_place(&self) -> bool {
        Functions::current().is_some_and(|functions| functions.are_same(&Functions::of::<T>()))
    }
}

impl<T: IpiSender> Drop for Takeover<T> {
    fn drop(&mut self) {
        // SAFETY: This may sleep. Both calls belong together.
        unsafe { bindings::cpus_read_lock() };
        self.installed.previous.install();
        // SAFETY: As above.
        unsafe { bindings::cpus_read_unlock() };

        // Whoever has been called, or is going to be, has preemption off, see the module's
        // documentation.
        synchronize_rcu();
        CURRENT.store(null_mut(), Release);
    }
}

impl Functions {
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

    fn are_same(&self, other: &Self) -> bool {
        self.reschedule as usize == other.reschedule as usize
            && self.call_function as usize == other.call_function as usize
            && self.call_function_single as usize == other.call_function_single as usize
    }

    /// Makes the kernel use these. CPUs may go on using those before.
    fn install(&self) {
        // SAFETY: The fields are as large as pointers, aligned, and live forever. CPUs read each of
        // them at once.
        let fields = unsafe {
            [
                Atomic::<usize>::from_ptr((&raw mut bindings::smp_ops.smp_send_reschedule).cast()),
                Atomic::<usize>::from_ptr((&raw mut bindings::smp_ops.send_call_func_ipi).cast()),
                Atomic::<usize>::from_ptr(
                    (&raw mut bindings::smp_ops.send_call_func_single_ipi).cast(),
                ),
            ]
        };
        let values = [
            self.reschedule as usize,
            self.call_function as usize,
            self.call_function_single as usize,
        ];

        for (field, value) in fields.into_iter().zip(values) {
            field.store(value, Release);
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
                Sent::Native => native.set(cpu),
                Sent::Waiting => {
                    any_sent = true;
                    waiting = Some(cpu);
                }
                Sent::Done => any_sent = true,
            }
        }
        if native.empty() {
            return Remaining::None(waiting);
        }
        if any_sent {
            // SAFETY: A mask of some of the CPUs that the caller wants to be sent to.
            unsafe { (self.previous.call_function)(Cpumask::as_raw(native)) };
        }
        // SAFETY: As above.
        for cpu in unsafe { members(mask) } {
            native.clear(cpu);
        }
        match any_sent {
            true => Remaining::None(waiting),
            false => Remaining::All,
        }
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
