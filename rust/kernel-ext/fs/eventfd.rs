// SPDX-License-Identifier: GPL-2.0

//! Eventfds, and callbacks for their signals.
//!
//! C headers: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h),
//! [`include/linux/wait.h`](srctree/include/linux/wait.h)
//!
//! # Concurrency
//!
//! A [`Waiter`]'s callbacks run in the signaller's context, with interrupts off, under the lock of
//! the eventfd's wait queue. Registering and dropping a waiter take the same lock: after the drop,
//! no callback runs.

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

/// A reference to an eventfd, which outlives the eventfd's files.
///
/// # Invariants
///
/// This owns a reference to the context.
pub struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: A context's reference count is atomic, and the rest of it has its own lock.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Returns the eventfd that `file` is open on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `file` is not an eventfd.
    pub fn from_file(file: &File) -> Result<Self> {
        // SAFETY: The file is valid for the duration of the call.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;

        // INVARIANT: `eventfd_ctx_fileget` has just taken this reference.
        Ok(Self(NonNull::new(ctx).ok_or(EINVAL)?))
    }

    /// Signals the eventfd. Any context but NMIs and eventfds' callbacks.
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
        // SAFETY: By the type invariants this owns the reference. It may be dropped in any context.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// The callbacks of a [`Waiter`].
///
/// They run with interrupts off, under the lock of the eventfd's wait queue, and must not signal an
/// eventfd.
pub trait EventFdCallback: Send + Sync {
    /// Called when the eventfd has been signalled and its counter has been read.
    fn signalled(&self);

    /// Called when the eventfd's last file has been closed. The kernel can still signal the eventfd.
    fn closed(&self);
}

/// An exclusive waiter for an eventfd: a signal wakes no other waiter.
///
/// # Invariants
///
/// If `queued` is set, `entry` is in the wait queue of `eventfd`. Only the owner reads `queued`.
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

/// The poll table that an eventfd's `poll` passes to [`Registration::register`].
#[repr(C)]
struct Registration {
    table: bindings::poll_table,
    entry: *mut bindings::wait_queue_entry,
    result: Result,
}

impl Registration {
    /// # Safety
    ///
    /// Must only be called by an eventfd's `poll`, with the table of a `Registration` whose entry is
    /// valid, in no queue, and not moved until it is taken out of the queue.
    unsafe extern "C" fn register(
        _file: *mut bindings::file,
        queue: *mut bindings::wait_queue_head_t,
        table: *mut bindings::poll_table,
    ) {
        // SAFETY: By the safety requirements the table is that of a `Registration`.
        let this = unsafe { &mut *container_of!(table, Self, table) };

        // SAFETY: The queue is valid, and so is the entry, by the safety requirements.
        this.result = to_result(unsafe {
            bindings::add_wait_queue_priority_exclusive(queue, this.entry) //
        });
    }
}

impl<T: EventFdCallback> Waiter<T> {
    /// Returns the object whose callbacks are called.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Returns whether this waits for `eventfd`.
    pub fn waits_for(&self, eventfd: &EventFd) -> bool {
        self.eventfd == *eventfd
    }

    /// Calls `target` whenever the eventfd that `file` is open on is signalled. Process context.
    ///
    /// Also returns whether the eventfd was signalled already. Its counter is then read at the next
    /// signal.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the file is not an eventfd.
    /// - `EBUSY`: the eventfd has another exclusive waiter, such as KVM's irqfd.
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
    /// Must only be called for an entry in an eventfd's wait queue, with the queue's lock held.
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

        // SAFETY: By the type invariants the context is valid and the entry is in its queue. Signals
        // that are left in the counter are those that `register` has returned.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.eventfd.0.as_ptr(),
                self.entry.get(),
                &mut count,
            );
        }
    }
}
