// SPDX-License-Identifier: GPL-2.0

//! What KVM's own files tell other modules.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h)

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

use crate::{
    file::IoctlFile,
    ioctl::Ioctl,
    thread_flags, //
};

/// KVM's file of a VM.
///
/// # Invariants
///
/// It is a file that KVM has made for a VM.
#[derive(Clone)]
pub struct VmFile(ARef<File>);

impl VmFile {
    /// Takes a file.
    ///
    /// # Safety
    ///
    /// It must be one that KVM has made for a VM.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: The caller vouches for it.
        Self(file)
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &ARef<File> {
        &self.0
    }

    /// Sets for how long KVM polls before a halted vCPU sleeps, at most, in ns; without a time, as KVM's parameter
    /// `halt_poll_ns` says.
    ///
    /// With a time this is `KVM_CAP_HALT_POLL`. Any context.
    pub fn set_halt_poll(&self, max_ns: Option<u32>) {
        let file = self.0.as_ptr();

        // SAFETY: By the type invariants the file is a VM's, to which it holds a reference.
        unsafe {
            crate::bindings::kvm_vm_set_halt_poll(file, max_ns.is_some(), max_ns.unwrap_or(0));
        }
    }
}

/// KVM's file of a vCPU.
///
/// # Invariants
///
/// It is a file that KVM has made for a vCPU.
pub struct VcpuFile(IoctlFile);

impl VcpuFile {
    /// Takes a file.
    ///
    /// # Safety
    ///
    /// It must be one that KVM has made for a vCPU.
    pub unsafe fn new(file: ARef<File>) -> Self {
        // INVARIANT: The caller vouches for it.
        Self(IoctlFile::new(file))
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Passes an ioctl on to the file, as [`FileExt::ioctl`](crate::file::FileExt::ioctl) does, with
    /// less ado.
    #[inline]
    pub fn ioctl(&self, request: Ioctl<'_>) -> Result<isize> {
        self.0.ioctl(request)
    }

    /// Returns whether KVM has something for the vCPU: an interrupt, a timer, an NMI, an SMI, or INIT.
    ///
    /// Any context. Interrupts that are posted to the vCPU (APICv) and not yet moved to its local APIC count,
    /// and so does a timer that only VMX would see expire (kvm-intel's `preemption_timer`).
    #[inline]
    pub fn is_wanted(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_wanted(self.0.file().as_ptr()) }
    }

    /// Returns whether KVM lets the current task use the vCPU: it is of the process that has made the VM.
    ///
    /// Process context.
    #[inline]
    pub fn is_callers(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_callers(self.0.file().as_ptr()) }
    }

    /// Returns whether KVM completes what the vCPU has exited for when `KVM_RUN` is called next.
    ///
    /// Until then its state cannot be saved. To be asked when `KVM_RUN` has returned, before another thread may call
    /// it.
    #[inline]
    pub fn completes_on_entry(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_completes_on_entry(self.0.file().as_ptr()) }
    }

    /// Returns whether the vCPU is in protected mode, x86's long mode included.
    ///
    /// Any context. If the vCPU runs, the answer is of just now.
    pub fn is_in_protected_mode(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_is_in_protected_mode(self.0.file().as_ptr()) }
    }

    /// Returns whether other vCPUs, when they spin, yield to this one only for an interrupt that KVM sees.
    ///
    /// To be asked while the scheduler preempts the vCPU's thread, in
    /// [`sched_out`](crate::preempt::PreemptNotified::sched_out).
    #[inline]
    pub fn yield_needs_interrupt(&self) -> bool {
        // SAFETY: By the type invariants the file is a vCPU's, to which it holds a reference.
        unsafe { crate::bindings::kvm_vcpu_yield_needs_interrupt(self.0.file().as_ptr()) }
    }
}

/// Who runs a vCPU, so that others can get it out of `KVM_RUN`.
///
/// There is one thread at a time. If there are more, which KVM would keep waiting, the last one counts.
///
/// # Concurrency
///
/// The lock protects the file. It is held while a thread is forced, and by that thread while it
/// [ends](Running::end) that, so that no flag is set on a thread that has left. It is taken with
/// interrupts off, and what it takes to wake a task is taken under it.
///
/// A thread writes that it is there, and then looks for what there is to do; others write what there
/// is to do, and then look for the thread: with a full barrier between on both sides, one sees what
/// the other wrote. A thread that leaves and others that force are ordered by the same pattern.
/// So are a thread that takes back the flag for another reason, and others that force it: it has to look
/// [whether it is forced](Running::is_forced) afterwards.
///
/// `timed` is set by whoever starts the timer, and cleared by the timer before it forces the thread: if
/// it is found set, the timer is yet to do so. It may do it in vain.
///
/// # Invariants
///
/// While `task` is not null, it is in `KVM_RUN`. `file` is a vCPU's.
#[pin_data(PinnedDrop)]
pub struct Runner {
    task: Atomic<*mut bindings::task_struct>,
    forced: Atomic<bool>,
    #[pin]
    file: SpinLockIrq<Option<ARef<File>>>,
    timed: Atomic<bool>,
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The task is used as the invariants say, and by any thread.
unsafe impl Send for Runner {}
// SAFETY: As above.
unsafe impl Sync for Runner {}

impl Runner {
    /// Makes one for a vCPU that nobody runs.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            task: Atomic::new(null_mut()),
            forced: Atomic::new(false),
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

    /// Says whose vCPU it is. The file is kept until [`Runner::detach`].
    pub fn attach(&self, vcpu: &VcpuFile) {
        // INVARIANT: It is a vCPU's.
        let before = self.file.lock().replace(vcpu.file().into());

        // Not under the lock.
        drop(before);
    }

    /// Lets the vCPU's file go. From then on nobody is forced.
    pub fn detach(&self) {
        let file = self.file.lock().take();

        drop(file);
    }

    /// Says that the current task runs the vCPU from now on, until the result is dropped. There is a
    /// full barrier after that.
    #[inline]
    pub fn enter(&self) -> Running<'_> {
        // INVARIANT: The caller is about to run the vCPU.
        self.task.xchg(Task::current_raw(), Full);
        Running {
            runner: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Gets the thread that runs the vCPU, if there is one, out of `KVM_RUN`. Any context but NMIs.
    ///
    /// What it is to find must have been written before, by an operation with a full barrier.
    pub fn force(&self) {
        let file = self.file.lock();
        let Some(file) = file.as_ref() else {
            return;
        };

        // If it has been forced and has not ended that, it has not looked yet.
        if self.forced.xchg(true, Full) {
            return;
        }
        let task = self.task.load(Relaxed);
        if task.is_null() {
            self.forced.store(false, Relaxed);
            return;
        }
        // SAFETY: By the type invariants the task runs the vCPU of this file. It has seen the flag, or
        // will when it leaves, and waits for the lock then.
        unsafe { crate::bindings::kvm_vcpu_force(file.as_ptr(), task) };
    }

    /// Does what [`Runner::force`] does at `time_ns` of [`monotonic_ns`](crate::sched::monotonic_ns), or
    /// when others have said before. Any context but NMIs.
    pub fn force_at(&self, time_ns: u64) {
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
        // SAFETY: The runner lives until its timer was cancelled.
        let this = unsafe { &*container_of!(Opaque::cast_from(timer), Self, timer) };

        this.timed.xchg(false, Full);
        this.force();
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    /// Gets the thread that has last begun to run the vCPU, by KVM's own account, out of `KVM_RUN`, if
    /// it is there. It has not [entered](Runner::enter). Process context.
    ///
    /// If it is elsewhere, it finds nothing to do when it next returns to user space.
    pub fn force_last(&self) {
        // KVM takes its lock of the thread's number with interrupts on, so ours must not be held.
        let file = self.file.lock().clone();

        if let Some(file) = file {
            // SAFETY: By the type invariants the file is a vCPU's.
            unsafe { crate::bindings::kvm_vcpu_force_last(file.as_ptr()) };
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Runner {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The timer was set up. Its function does not drop this.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }
}

/// The current task runs a vCPU.
#[must_use = "the task runs the vCPU until this is dropped"]
pub struct Running<'a> {
    runner: &'a Runner,
    _not_send: NotThreadSafe,
}

impl Running<'_> {
    /// Returns whether somebody may have forced this thread out of `KVM_RUN`.
    #[inline]
    pub fn is_forced(&self) -> bool {
        self.runner.forced.load(Relaxed)
    }

    /// Takes back what has forced this thread out. Returns what
    /// [`clear_notify_signal`](thread_flags::clear_notify_signal) does.
    pub fn end(&self) -> bool {
        let _guard = self.runner.file.lock();

        // Whatever was written before the thread was forced is visible from here on.
        self.runner.forced.xchg(false, Full);
        thread_flags::clear_notify_signal()
    }
}

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        self.runner.task.xchg(null_mut(), Full);
        if self.is_forced() {
            self.end();
        }
    }
}
