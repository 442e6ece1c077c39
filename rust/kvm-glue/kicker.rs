// SPDX-License-Identifier: GPL-2.0

//! Getting a thread out of `KVM_RUN`.

use core::{
    marker::PhantomPinned,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    container_of,
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        new_spinlock_irq,
        SpinLockIrq, //
    },
    task::Task,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use kernel_ext::{
    sched::thread_flags, //
    sync::read_once::ReadOnce,
};

use crate::files::VcpuFile;

/// Why a thread has been kicked, as bits of [`Kicker::reasons`].
mod reason {
    /// A post, by another thread or an interrupt.
    pub(super) const POST: u32 = 1 << 0;
    /// The thread's own scheduler callback found something to do.
    pub(super) const SCHEDULER: u32 = 1 << 1;
    /// The thread is not tracked, and has to be from now on.
    pub(super) const TRACK: u32 = 1 << 2;
}

/// Gets the thread that runs a vCPU out of `KVM_RUN`.
///
/// There is one thread at a time. If there are more, of which KVM keeps all but one waiting, the last one counts.
///
/// All kicks set `TIF_NOTIFY_SIGNAL`, of which there is one per thread. So there is one word of reasons and one function
/// that takes it, with the flag: if each reason were taken alone, it would take the flag of another.
///
/// # Concurrency
///
/// The lock protects the file. It is held while a thread is kicked, and by that thread while it [takes](Kicker::take)
/// the reasons, so that no flag is set on a thread that has left. It is taken with interrupts off. The locks by which a
/// task is woken are taken under it.
///
/// A thread writes that it is there, and then looks for what there is to do; others write what there is to do, and then
/// look for the thread. There is a full barrier between on both sides, so that one sees what the other wrote. The same
/// pattern orders a thread that leaves and others that kick it.
///
/// `timed` is set by the thread that starts the timer, and cleared by the timer before it kicks: if it is found set, the
/// timer is yet to do so. It may do it in vain.
///
/// # Invariants
///
/// While `task` is not null, it is in `KVM_RUN`. `file` is a vCPU's.
#[pin_data(PinnedDrop)]
pub struct Kicker {
    task: Atomic<*mut bindings::task_struct>,
    reasons: Atomic<u32>,
    #[pin]
    file: SpinLockIrq<Option<ARef<File>>>,
    timed: Atomic<bool>,
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The task is used as the invariants say, and by any thread.
unsafe impl Send for Kicker {}
// SAFETY: As above.
unsafe impl Sync for Kicker {}

impl Kicker {
    /// Makes one for a vCPU that no thread runs.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            task: Atomic::new(null_mut()),
            reasons: Atomic::new(0),
            file <- new_spinlock_irq!(None),
            timed: Atomic::new(false),
            // SAFETY: The slot is valid.
            timer <- Opaque::ffi_init(|slot| unsafe {
                bindings::hrtimer_setup(
                    slot,
                    Some(Self::expire),
                    bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                    bindings::hrtimer_mode_HRTIMER_MODE_ABS,
                )
            }),
            _pin: PhantomPinned,
        })
    }

    /// Names the vCPU. The file is kept until [`Kicker::detach`].
    pub fn attach(&self, vcpu: &VcpuFile) {
        // INVARIANT: It is a vCPU's.
        let before = self.file.lock().replace(vcpu.file().into());

        // Not under the lock.
        drop(before);
    }

    /// Drops the vCPU's file. From then on no thread is kicked.
    pub fn detach(&self) {
        let file = self.file.lock().take();

        drop(file);
    }

    /// Notes that the current task runs the vCPU until the result is dropped. A full barrier.
    #[inline]
    pub fn enter(&self) -> Running<'_> {
        // INVARIANT: The caller is about to run the vCPU.
        self.task.xchg(Task::current_raw(), Full);
        Running {
            kicker: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Adds a reason, and returns those that there were. A full barrier.
    fn add(&self, reason: u32) -> u32 {
        let mut old = self.reasons.load(Relaxed);

        while let Err(now) = self.reasons.cmpxchg(old, old | reason, Full) {
            old = now;
        }
        old
    }

    /// Kicks the thread that runs the vCPU, if there is one. Any context but NMIs.
    ///
    /// What it is to find must have been written before, by an operation with a full barrier.
    pub fn kick(&self) {
        let file = self.file.lock();
        let Some(file) = file.as_ref() else {
            return;
        };

        // If it has been kicked and has not taken that, it has not looked yet.
        if self.add(reason::POST) & reason::POST != 0 {
            return;
        }
        let task = self.task.load(Relaxed);
        if task.is_null() {
            // Only this function sets the bit, and only with the lock held.
            self.reasons.fetch_sub(reason::POST, Relaxed);
            return;
        }
        // SAFETY: By the type invariants the task runs the vCPU of this file. It has seen the reason, or
        // will when it leaves, and waits for the lock then.
        unsafe { crate::bindings::kvm_vcpu_kick_task(file.as_ptr(), task) };
    }

    /// Does what [`Kicker::kick`] does at `time_ns` of [`monotonic_ns`](kernel_ext::sched::task::monotonic_ns), or
    /// at an earlier time that another caller has given. Any context but NMIs.
    pub fn kick_at(&self, time_ns: u64) {
        if self.timed.xchg(true, Full) {
            return;
        }
        // SAFETY: The timer was set up, and is pinned.
        unsafe {
            bindings::hrtimer_start_range_ns(
                self.timer.get(),
                time_ns as bindings::ktime_t,
                0,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS,
            )
        };
    }

    /// # Safety
    ///
    /// To be called as the function of a timer that is in one of these.
    unsafe extern "C" fn expire(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: The kicker lives until its timer was cancelled.
        let this = unsafe { &*container_of!(Opaque::cast_from(timer), Self, timer) };

        this.timed.xchg(false, Full);
        this.kick();
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    /// Kicks the current thread, which is in `KVM_RUN`, from a callback of the scheduler's.
    pub fn kick_current(&self) {
        self.add(reason::SCHEDULER);
        thread_flags::set_notify_signal();
    }

    /// Kicks the thread that KVM knows to have last begun to run the vCPU, if it is in `KVM_RUN`. It has not
    /// [entered](Kicker::enter). Process context.
    ///
    /// A thread that is elsewhere finds nothing to do when it next returns to user space.
    pub fn kick_untracked(&self) {
        // KVM takes its lock of the thread's number with interrupts on, so ours must not be held.
        let file = self.file.lock().clone();

        self.add(reason::TRACK);
        if let Some(file) = file {
            // SAFETY: By the type invariants the file is a vCPU's.
            unsafe { crate::bindings::kvm_vcpu_kick_last(file.as_ptr()) };
        }
    }

    /// Takes all reasons, with the flag that has made the current thread leave `KVM_RUN`. By the thread that runs the
    /// vCPU. Returns what [`clear_notify_signal`](thread_flags::clear_notify_signal) does.
    pub fn take(&self) -> bool {
        let _guard = self.file.lock();

        // What was written before the thread was kicked is visible from here on. The scheduler's callback cannot come
        // between these two, as interrupts are off.
        self.reasons.xchg(0, Full);
        thread_flags::clear_notify_signal()
    }
}

#[pinned_drop]
impl PinnedDrop for Kicker {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The timer was set up. Its function does not drop this.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }
}

/// The current task runs a vCPU.
#[must_use = "the task runs the vCPU until this is dropped"]
pub struct Running<'a> {
    kicker: &'a Kicker,
    _not_send: NotThreadSafe,
}

impl Running<'_> {
    /// Returns whether this thread has been kicked and has not [taken](Kicker::take) that.
    #[inline]
    pub fn is_kicked(&self) -> bool {
        self.kicker.reasons.read_once() != 0
    }
}

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        self.kicker.task.xchg(null_mut(), Full);
        if self.is_kicked() {
            self.kicker.take();
        }
    }
}
