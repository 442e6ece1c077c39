// SPDX-License-Identifier: GPL-2.0

//! Eventfds, and being called when one is signalled.
//!
//! C headers: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h),
//! [`include/linux/wait.h`](srctree/include/linux/wait.h)
//!
//! # Concurrency
//!
//! A [`Waiter`]'s callbacks run under the lock of the eventfd's wait queue, with interrupts off, in
//! the context of whoever signals. To register and to drop a waiter takes the same lock: when the
//! drop is over, no callback runs, and none will.

use core::{
    marker::PhantomPinned,
    ptr::{
        from_mut,
        NonNull, //
    }, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    bindings,
    container_of,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    fs::File,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

/// `EPOLLIN` and `EPOLLHUP` of `include/uapi/linux/eventpoll.h`.
const EPOLLIN: u32 = 0x001;
const EPOLLHUP: u32 = 0x010;

/// An eventfd, which stays even if its file goes.
///
/// # Invariants
///
/// This owns a reference to the context.
pub struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: A context is counted atomically, and all else about it is under a lock of its own.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Returns the eventfd that `file` is.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none.
    pub fn from_file(file: &File) -> Result<Self> {
        // SAFETY: The file is valid for the duration of the call.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;

        // INVARIANT: `eventfd_ctx_fileget` has just taken this reference.
        Ok(Self(NonNull::new(ctx).ok_or(EINVAL)?))
    }

    /// Signals the eventfd. Any context but that of another eventfd's callback.
    #[inline]
    pub fn signal(&self) {
        // SAFETY: By the type invariants the context is valid.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours to give up. This may be any context.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// Who wants to be called.
///
/// The callbacks run with interrupts off and the lock of the eventfd's wait queue held. They must
/// not signal an eventfd.
pub trait EventFdCallback: Send + Sync {
    /// The eventfd has been signalled, and its counter has been read.
    fn signalled(&self);

    /// The eventfd's last file has been closed. It can still be signalled from within the kernel.
    fn closed(&self);
}

/// Waits for an eventfd, alone: nobody else is woken by it.
///
/// # Invariants
///
/// `entry` is in the wait queue of `eventfd` if `queued` says so, which only the owner asks.
#[pin_data(PinnedDrop)]
pub struct Waiter<T: EventFdCallback> {
    entry: Opaque<bindings::wait_queue_entry>,
    queued: Atomic<bool>,
    eventfd: EventFd,
    target: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The entry is changed under the lock of the wait queue only.
unsafe impl<T: EventFdCallback> Send for Waiter<T> {}
// SAFETY: As above.
unsafe impl<T: EventFdCallback> Sync for Waiter<T> {}

/// What `poll` hands to [`Registration::register`].
#[repr(C)]
struct Registration {
    table: bindings::poll_table,
    entry: *mut bindings::wait_queue_entry,
    result: Result,
}

impl Registration {
    /// # Safety
    ///
    /// To be called by an eventfd's `poll` alone, with the table of a `Registration` whose entry is
    /// valid, in no queue, and not moved until it is taken out.
    unsafe extern "C" fn register(
        _file: *mut bindings::file,
        queue: *mut bindings::wait_queue_head_t,
        table: *mut bindings::poll_table,
    ) {
        // SAFETY: The caller vouches for the table, which is the first of a `Registration`.
        let this = unsafe { &mut *container_of!(table, Self, table) };

        // SAFETY: The queue is valid, and the caller vouches for the entry.
        this.result = to_result(unsafe {
            bindings::add_wait_queue_priority_exclusive(queue, this.entry) //
        });
    }
}

impl<T: EventFdCallback> Waiter<T> {
    /// Returns whom it calls.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Returns whether `eventfd` is what it waits for.
    pub fn waits_for(&self, eventfd: &EventFd) -> bool {
        self.eventfd == *eventfd
    }

    /// Has `target` called whenever the eventfd that `file` is open on is signalled. Process context.
    ///
    /// Says, too, whether the eventfd has been signalled before. Its counter is then read at the
    /// next signal.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the file is no eventfd.
    /// - `EBUSY`: somebody else waits for it alone, KVM's irqfd for example.
    /// - `ENOMEM`.
    pub fn register(file: &File, target: T) -> Result<(Pin<KBox<Self>>, bool)> {
        let eventfd = EventFd::from_file(file)?;
        let this = KBox::pin_init(
            pin_init!(Self {
                entry: Opaque::new(bindings::wait_queue_entry {
                    func: Some(Self::wake),
                    ..Default::default()
                }),
                queued: Atomic::new(false),
                eventfd,
                target,
                _pin: PhantomPinned,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut registration = Registration {
            table: bindings::poll_table {
                _qproc: Some(Registration::register),
                _key: !0,
            },
            entry: this.entry.get(),
            result: Err(EINVAL),
        };

        // SAFETY: An eventfd's operations have a `poll`, which adds the caller to one wait queue. The
        // entry is pinned, and is taken out of the queue before it is dropped.
        let events = unsafe {
            let poll = (*(*file.as_ptr()).f_op).poll.ok_or(EINVAL)?;
            poll(file.as_ptr(), from_mut(&mut registration.table))
        };
        registration.result?;
        // INVARIANT: It is in the queue now.
        this.queued.store(true, Relaxed);
        Ok((this, events & EPOLLIN != 0))
    }

    /// # Safety
    ///
    /// To be called for an entry that is in an eventfd's wait queue, with the queue's lock held.
    unsafe extern "C" fn wake(
        entry: *mut bindings::wait_queue_entry,
        _mode: c_uint,
        _flags: c_int,
        key: *mut c_void,
    ) -> c_int {
        // SAFETY: The entry is that of a waiter, which lives as long as it is in the queue.
        let this = unsafe { &*container_of!(Opaque::cast_from(entry), Self, entry) };
        let events = key.addr() as u32;

        if events & EPOLLHUP != 0 {
            this.target.closed();
        }
        if events & EPOLLIN == 0 {
            return 0;
        }
        let mut count = 0;
        // SAFETY: The context is valid, and the queue's lock is held.
        unsafe { bindings::eventfd_ctx_do_read(this.eventfd.0.as_ptr(), &mut count) };
        this.target.signalled();
        1
    }
}

#[pinned_drop]
impl<T: EventFdCallback> PinnedDrop for Waiter<T> {
    fn drop(self: Pin<&mut Self>) {
        if !self.queued.load(Relaxed) {
            return;
        }
        let mut count = 0;

        // SAFETY: By the type invariants the context is valid and the entry in its queue. If signals
        // are left in the counter, the target knows of them since it was registered.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.eventfd.0.as_ptr(),
                self.entry.get(),
                &mut count,
            );
        }
    }
}
