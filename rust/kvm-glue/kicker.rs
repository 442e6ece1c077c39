// SPDX-License-Identifier: GPL-2.0

//! Kicks: how a thread is forced out of `KVM_RUN`.

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
    sched::thread_flags,
    sync::read_once::ReadOnce, //
};

use crate::files::VcpuFile;

/// Why a thread has been kicked, as bits of [`Kicker::reasons`].
mod reason {
    /// A post, by another thread or an interrupt.
    pub(super) const POST: u32 = 1 << 0;
    /// The scheduler's callback in the thread itself found a pending post.
    pub(super) const SCHEDULER: u32 = 1 << 1;
    /// The untracked thread has to become tracked.
    pub(super) const TRACK: u32 = 1 << 2;
}

/// Forces the thread that runs a vCPU out of `KVM_RUN`.
///
/// One thread at a time may [enter](Kicker::enter).
///
/// All kicks set `TIF_NOTIFY_SIGNAL`, which a thread has once. So one word holds all reasons, and [`Kicker::take`]
/// takes them together with the flag: to take one reason alone would clear the flag of another, and lose that kick.
///
/// # Concurrency
///
/// The lock protects `file`. The kicking thread holds it while it sets the flag, and the kicked thread while it takes
/// the reasons, so that no flag is set on a thread that has left `KVM_RUN`. It is taken with interrupts off. The locks
/// by which a task is woken are taken under it.
///
/// A thread writes `task` and then reads the reasons and the pending bits; a kicking thread writes the pending bits and
/// the reason and then reads `task`. Both have a full barrier in between, so that one of them sees what the other
/// wrote. The same pattern orders a thread that leaves against one that kicks it.
///
/// The thread that starts the timer sets `timer_pending`, and the timer clears it before it kicks: while it is set, the
/// kick is still to come. The vCPU may have taken its vectors by then.
///
/// # Invariants
///
/// If `task` is not null, that task has [entered](Kicker::enter), and its [`Running`] exists. `file` is a vCPU's.
#[pin_data(PinnedDrop)]
pub struct Kicker {
    task: Atomic<*mut bindings::task_struct>,
    reasons: Atomic<u32>,
    #[pin]
    file: SpinLockIrq<Option<ARef<File>>>,
    timer_pending: Atomic<bool>,
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Any thread may use the task, under the lock and as the invariants say.
unsafe impl Send for Kicker {}
// SAFETY: As above.
unsafe impl Sync for Kicker {}

impl Kicker {
    /// Creates a kicker for a vCPU that no thread runs.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            task: Atomic::new(null_mut()),
            reasons: Atomic::new(0),
            file <- new_spinlock_irq!(None, "pvirq_kicker"),
            timer_pending: Atomic::new(false),
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

    /// Sets the vCPU, and keeps its file until [`Kicker::detach`].
    pub fn attach(&self, vcpu: &VcpuFile) {
        // INVARIANT: `VcpuFile` is a vCPU's.
        let before = self.file.lock().replace(vcpu.file().into());

        // The lock has been released: to drop a file can take others.
        drop(before);
    }

    /// Drops the vCPU's file. No thread is kicked after that.
    pub fn detach(&self) {
        let file = self.file.lock().take();

        drop(file);
    }

    /// Marks the current task as running the vCPU until the result is dropped. A full barrier.
    #[inline]
    pub fn enter(&self) -> Running<'_> {
        // INVARIANT: The caller is about to run the vCPU.
        self.task.xchg(Task::current_raw(), Full);
        Running {
            kicker: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Adds a reason, and returns the earlier ones. A full barrier.
    fn add(&self, reason: u32) -> u32 {
        let mut old = self.reasons.load(Relaxed);

        while let Err(now) = self.reasons.cmpxchg(old, old | reason, Full) {
            old = now;
        }
        old
    }

    /// Kicks the thread that runs the vCPU, if there is one. Any context but NMIs.
    ///
    /// The caller has set the pending bits before, by an operation with a full barrier.
    pub fn kick(&self) {
        let file = self.file.lock();
        let Some(file) = file.as_ref() else {
            return;
        };

        // A thread that has not taken an earlier kick has not read the pending bits yet.
        if self.add(reason::POST) & reason::POST != 0 {
            return;
        }
        let task = self.task.load(Relaxed);
        if task.is_null() {
            // Only this function sets the bit, under the lock, so the subtraction clears it.
            self.reasons.fetch_sub(reason::POST, Relaxed);
            return;
        }
        // SAFETY: By the type invariants the task runs the vCPU of this file. It stays: when it leaves, it sees the
        // reason, and waits for the lock that is held here.
        unsafe { crate::bindings::kvm_vcpu_kick_task(file.as_ptr(), task) };
    }

    /// Calls [`Kicker::kick`] at `time_ns` of [`monotonic_ns`](kernel_ext::sched::task::monotonic_ns), or at the time
    /// of the timer that is already pending. Any context but NMIs.
    pub fn kick_at(&self, time_ns: u64) {
        if self.timer_pending.xchg(true, Full) {
            return;
        }
        // SAFETY: `new` has set the timer up, and it is pinned.
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
    /// Only the timer of a `Kicker` may call this.
    unsafe extern "C" fn expire(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: The timer is that of a kicker, which cancels it before it goes.
        let this = unsafe { &*container_of!(Opaque::cast_from(timer), Self, timer) };

        this.timer_pending.xchg(false, Full);
        this.kick();
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    /// Kicks the current thread, which is in `KVM_RUN`. In the scheduler's callbacks.
    pub fn kick_current(&self) {
        self.add(reason::SCHEDULER);
        thread_flags::set_notify_signal();
    }

    /// Kicks the thread that was the last to begin KVM's own `KVM_RUN` on the vCPU, without having
    /// [entered](Kicker::enter). Process context.
    ///
    /// A thread that has left `KVM_RUN` clears the flag when it next returns to user space.
    pub fn kick_untracked(&self) {
        // KVM takes `vcpu->pid_lock` with interrupts on, so it must not nest in our lock.
        let file = self.file.lock().clone();

        self.add(reason::TRACK);
        if let Some(file) = file {
            // SAFETY: By the type invariants this is a vCPU's file.
            unsafe { crate::bindings::kvm_vcpu_kick_last(file.as_ptr()) };
        }
    }

    /// Takes all reasons, together with the flag that made the current thread leave `KVM_RUN`. Only the thread that
    /// runs the vCPU may call this. Returns what [`clear_notify_signal`](thread_flags::clear_notify_signal) does.
    pub fn take(&self) -> bool {
        let _guard = self.file.lock();

        // From here on the thread sees what was written before the kick: pairs with the barriers in `add`. Interrupts
        // are off, so the scheduler's callback cannot add a reason between these two.
        self.reasons.xchg(0, Full);
        thread_flags::clear_notify_signal()
    }
}

#[pinned_drop]
impl PinnedDrop for Kicker {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` has set the timer up. The timer's function does not drop the kicker.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }
}

/// Marks the current task as running a vCPU.
#[must_use = "the task runs the vCPU until this is dropped"]
pub struct Running<'a> {
    kicker: &'a Kicker,
    _not_send: NotThreadSafe,
}

impl Running<'_> {
    /// Returns whether this thread has been kicked and has not [taken](Kicker::take) the reasons.
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
