// SPDX-License-Identifier: GPL-2.0

//! Ioctls, as seen by their handlers.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use kernel::{
    fs::File,
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    types::NotThreadSafe,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The ABI of the task that makes an ioctl.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    /// The kernel's.
    Native,
    /// The ABI of 32-bit tasks on a 64-bit kernel.
    #[cfg(CONFIG_COMPAT)]
    Compat,
}

/// An ioctl that the current thread handles.
///
/// # Invariants
///
/// The current thread is in the ioctl handler of `file`, and in no system call that uses a file
/// position.
#[derive(Clone, Copy)]
pub struct Ioctl<'a> {
    file: &'a File,
    abi: Abi,
    cmd: u32,
    arg: usize,
    _not_send: NotThreadSafe,
}

impl<'a> Ioctl<'a> {
    /// # Safety
    ///
    /// The current thread must be in the ioctl handler of `file` for the duration of `'a`, and in
    /// no system call that uses a file position.
    pub(crate) unsafe fn new(file: &'a File, abi: Abi, cmd: u32, arg: usize) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            file,
            abi,
            cmd,
            arg,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the file of the ioctl.
    pub fn file(&self) -> &'a File {
        self.file
    }

    /// Returns the ABI of the argument.
    pub(crate) fn abi(&self) -> Abi {
        self.abi
    }

    /// Returns the number of the ioctl.
    pub fn cmd(&self) -> u32 {
        self.cmd
    }

    /// Returns the argument: a number, or an address in user space.
    pub fn arg(&self) -> usize {
        self.arg
    }

    /// Reads a `T` in user space, `offset` bytes after the address in the argument.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the task cannot read it.
    pub fn read_at<T: FromBytes>(&self, offset: usize) -> Result<T> {
        let address = UserPtr::from_addr(self.arg).wrapping_byte_add(offset);

        UserSlice::new(address, size_of::<T>()).reader().read()
    }

    /// Writes `value` to user space, at the address in the argument.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the task cannot write there.
    pub fn write<T: AsBytes>(&self, value: &T) -> Result {
        let address = UserPtr::from_addr(self.arg);

        UserSlice::new(address, size_of::<T>())
            .writer()
            .write(value)
    }
}
