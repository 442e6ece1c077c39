// SPDX-License-Identifier: GPL-2.0

//! File descriptors of the process that makes an ioctl.
//!
//! C header: [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)
//!
//! `exchange` is the part of `replace_fd()`, which is not exported, that runs under the lock of
//! the table. It does not close the displaced file as close(2) does: there is no `flush`, and POSIX
//! locks remain.

use kernel::{
    bindings,
    fs::{
        file::BadFdError,
        File,
        LocalFile, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        }, //
    },
    task::Task, //
};

use crate::fs::ioctl::Ioctl;

impl Ioctl<'_> {
    /// Returns the file that `fd` refers to.
    pub fn fget(&self, fd: u32) -> Result<ARef<File>, BadFdError> {
        let file = LocalFile::fget(fd)?;

        // SAFETY: By the type invariants this thread is in no `fdget_pos` section.
        Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
    }

    /// Makes `fd` refer to `new` if it refers to `old`, in one step, and returns whether it did.
    ///
    /// If not, the reference to `new` is dropped. The descriptor keeps its flags. Other threads of
    /// the process see either file, and never a closed descriptor.
    ///
    /// The file of the ioctl is never replaced, as the descriptor's reference may be the only one.
    pub fn replace(&self, fd: u32, old: &File, new: ARef<File>) -> bool {
        if old.as_ptr() == self.file().as_ptr() {
            return false;
        }

        // The system call uses no file without a reference but that of the ioctl, so the
        // descriptor's reference to `old` may be dropped.
        exchange(fd, old, new).is_ok()
    }

    /// Calls `f` while `fd`, which refers to `file`, refers to `lent` instead.
    ///
    /// Returns `None` without calling `f` if `fd` does not refer to `file`. If the descriptor is
    /// closed or made to refer to another file meanwhile, it stays so.
    ///
    /// Callers must not lend in place of one file twice at the same time.
    pub fn lend<T>(
        &self,
        fd: u32,
        file: &File,
        lent: ARef<File>,
        f: impl FnOnce() -> T,
    ) -> Option<T> {
        let lent_file = lent.clone();
        let kept = exchange(fd, file, lent).ok()?;
        let result = f();

        // This fails only if another thread has changed the descriptor. Then the table is shared,
        // so the system call has its own reference to its file, and the descriptor's may be dropped.
        let _ = exchange(fd, &lent_file, kept);
        Some(result)
    }
}

/// Makes `fd` refer to `new` if it refers to `old`.
///
/// Returns the descriptor's reference to `old`, or else `new`. The former must not be dropped while a
/// system call of this thread uses `old` by `fdget()`, which relies on the descriptor's reference as
/// long as the table is not shared.
fn exchange(fd: u32, old: &File, new: ARef<File>) -> Result<ARef<File>, ARef<File>> {
    // SAFETY: The current task is valid, and only it sets its own `files`.
    let files = unsafe { (*Task::current_raw()).files };
    if files.is_null() {
        // The task is exiting and has no descriptors left.
        return Err(new);
    }

    // SAFETY: A task owns a reference to its table of files.
    let lock = unsafe { &raw mut (*files).file_lock };

    // SAFETY: The lock was initialised with the table. It is taken in process context only.
    unsafe { bindings::spin_lock(lock) };
    // SAFETY: The table's lock is held.
    let exchanged = unsafe { exchange_locked(files, fd, old, &new) };
    // SAFETY: The lock was taken above.
    unsafe { bindings::spin_unlock(lock) };

    if !exchanged {
        return Err(new);
    }

    // The descriptor owns this reference now.
    let _ = ARef::into_raw(new);
    // SAFETY: The descriptor owned a reference to `old`, which it has given up.
    Ok(unsafe { ARef::from_raw(old.into()) })
}

/// # Safety
///
/// `files` must be valid and locked. If this returns true, the descriptor has taken over a
/// reference to `new` and given up one to `old`.
unsafe fn exchange_locked(
    files: *mut bindings::files_struct,
    fd: u32,
    old: &File,
    new: &File,
) -> bool {
    // SAFETY: The array of descriptors is replaced under the lock only.
    let table = unsafe { (*files).fdt };
    // SAFETY: The array is valid as long as the lock is held.
    let (slots, len) = unsafe { ((*table).fd, (*table).max_fds) };
    if fd >= len {
        return false;
    }

    // SAFETY: `fd` is within the array. All accesses to its elements are atomic: lookups are under
    // RCU, and `fd_install()`, which fills an empty element without the lock, is a store-release.
    let slot = unsafe { Atomic::from_ptr(slots.add(fd as usize)) };
    if slot.load(Relaxed) != old.as_ptr() {
        return false;
    }

    // An element that is not empty changes only under the lock, so this is still `old`. The release
    // is that of `rcu_assign_pointer()`: a lookup that finds the file finds it initialised.
    slot.store(new.as_ptr(), Release);
    true
}
