// SPDX-License-Identifier: GPL-2.0

//! Operations on files of other drivers.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::File,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    sync::aref::ARef, //
};

use crate::fs::ioctl::{
    Abi,
    Ioctl, //
};

/// Opens the file at `path` with the rights of the current task, as `open(2)` does.
pub fn open(path: &CStr, flags: u32) -> Result<ARef<File>> {
    // SAFETY: `path` is valid for the duration of the call.
    let file = from_err_ptr(unsafe { bindings::filp_open(path.as_char_ptr(), flags as c_int, 0) })?;

    // SAFETY: `filp_open` has just returned this new reference.
    unsafe { own(file) }
}

/// # Safety
///
/// `file` must be null, or a reference that the caller transfers, to a file whose position is not in
/// use.
unsafe fn own(file: *mut bindings::file) -> Result<ARef<File>> {
    let file = NonNull::new(file).ok_or(ENOENT)?.cast();

    // SAFETY: By the safety requirements.
    Ok(unsafe { ARef::from_raw(file) })
}

/// Extensions of [`File`].
///
/// `ioctl`, `call` and `mmap` call the file's operations directly: no security module checks them.
pub trait FileExt {
    /// Opens the path of this file again, with the rights of the current task.
    ///
    /// All checks of `open(2)` are made, except those of the directories on the way. Later mounts
    /// over the path make no difference.
    fn reopen(&self, flags: u32) -> Result<ARef<File>>;

    /// Forwards an ioctl to this file.
    fn ioctl(&self, request: Ioctl<'_>) -> Result<isize>;

    /// Makes an ioctl on this file, with a native argument.
    fn call(&self, cmd: u32, arg: usize) -> Result<isize>;

    /// Makes the new mapping `vma` one of this file.
    fn mmap(&self, vma: &VmaNew) -> Result;

    /// Adds this file's lines to a `/proc/PID/fdinfo` file.
    fn show_fdinfo(&self, m: &SeqFile);

    /// Returns the major and minor number of the character device that this file is open on.
    fn char_device(&self) -> Option<(u32, u32)>;

    /// Returns whether this file is on an anonymous inode, under the name `name`.
    fn is_anon(&self, name: &CStr) -> bool;

    /// Returns whether the operations of this file belong to the same module as those of `other`.
    fn same_owner(&self, other: &File) -> bool;
}

#[inline]
fn operations(file: &File) -> &bindings::file_operations {
    // SAFETY: The operations of an open file do not change, and the file holds a reference to their
    // module.
    unsafe { &*(*file.as_ptr()).f_op }
}

/// A file with its ioctl handlers looked up in advance, for frequent calls.
///
/// # Invariants
///
/// The handlers are those of the file's operations.
pub struct IoctlFile {
    file: ARef<File>,
    native: Handler,
    #[cfg(CONFIG_COMPAT)]
    compat: Handler,
}

type Handler = Option<unsafe extern "C" fn(*mut bindings::file, c_uint, c_ulong) -> c_long>;

impl IoctlFile {
    /// Looks up the handlers of a file.
    pub fn new(file: ARef<File>) -> Self {
        let operations = operations(&file);

        // INVARIANT: They do not change.
        Self {
            native: operations.unlocked_ioctl,
            #[cfg(CONFIG_COMPAT)]
            compat: operations.compat_ioctl,
            file,
        }
    }

    /// Returns the file.
    #[inline]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// As [`FileExt::ioctl`].
    #[inline]
    pub fn ioctl(&self, request: Ioctl<'_>) -> Result<isize> {
        let handler = match request.abi() {
            Abi::Native => self.native,
            #[cfg(CONFIG_COMPAT)]
            Abi::Compat => self.compat,
        };

        // SAFETY: By the type invariants the handler is one of this file's.
        unsafe { call(&self.file, handler, request.cmd(), request.arg()) }
    }
}

/// Calls an ioctl handler of a file.
///
/// # Safety
///
/// `handler` must be one of that file's operations.
#[inline]
unsafe fn call(file: &File, handler: Handler, cmd: u32, arg: usize) -> Result<isize> {
    let handler = handler.ok_or(ENOTTY)?;

    // SAFETY: The file is valid for the duration of the call, and the handler is its own. It copes
    // with any number and any argument, as user space may pass them.
    let value = unsafe { handler(file.as_ptr(), cmd, arg as c_ulong) };
    if value < 0 {
        return Err(Error::from_errno(value as c_int));
    }
    Ok(value)
}

impl FileExt for File {
    fn reopen(&self, flags: u32) -> Result<ARef<File>> {
        // SAFETY: A file holds a reference to its path, which does not change.
        let path = unsafe { &raw const (*self.as_ptr()).__bindgen_anon_1.f_path };
        // SAFETY: Both pointers are valid for the duration of the call. As for
        // `open_by_handle_at(2)`, the empty name stands for the path itself.
        let file = from_err_ptr(unsafe {
            bindings::file_open_root(path, c"".as_char_ptr(), flags as c_int, 0)
        })?;

        // SAFETY: `file_open_root` has just returned this new reference.
        unsafe { own(file) }
    }

    #[inline]
    fn ioctl(&self, request: Ioctl<'_>) -> Result<isize> {
        let operations = operations(self);
        let handler = match request.abi() {
            Abi::Native => operations.unlocked_ioctl,
            #[cfg(CONFIG_COMPAT)]
            Abi::Compat => operations.compat_ioctl,
        };

        // SAFETY: The handler is one of this file's.
        unsafe { call(self, handler, request.cmd(), request.arg()) }
    }

    fn call(&self, cmd: u32, arg: usize) -> Result<isize> {
        // SAFETY: The handler is one of this file's.
        unsafe { call(self, operations(self).unlocked_ioctl, cmd, arg) }
    }

    fn mmap(&self, vma: &VmaNew) -> Result {
        let operations = operations(self);
        if operations.mmap.is_none() && operations.mmap_prepare.is_none() {
            return Err(ENODEV);
        }

        // SAFETY: The mapping is being set up by its file's `mmap`, which may change the file. It
        // takes its own reference to this one.
        unsafe { bindings::vma_set_file(vma.as_ptr(), self.as_ptr()) };
        to_result(match operations.mmap {
            // SAFETY: The mapping is being set up, and its file is this one now.
            Some(mmap) => unsafe { mmap(self.as_ptr(), vma.as_ptr()) },
            // SAFETY: As above; and there is an `mmap_prepare`.
            None => unsafe { bindings::compat_vma_mmap(self.as_ptr(), vma.as_ptr()) },
        })
    }

    fn show_fdinfo(&self, m: &SeqFile) {
        if let Some(show) = operations(self).show_fdinfo {
            // SAFETY: Both pointers are valid for the duration of the call. Only this thread, which
            // it cannot leave, uses `m`. `SeqFile` is a transparent wrapper.
            unsafe { show(core::ptr::from_ref(m).cast_mut().cast(), self.as_ptr()) };
        }
    }

    fn char_device(&self) -> Option<(u32, u32)> {
        // SAFETY: A file holds a reference to its inode, and neither field changes.
        let (mode, number) = unsafe {
            let inode = (*self.as_ptr()).f_inode;
            ((*inode).i_mode, (*inode).i_rdev)
        };

        (u32::from(mode) & bindings::S_IFMT == bindings::S_IFCHR).then_some((
            number >> bindings::MINORBITS,
            number & ((1 << bindings::MINORBITS) - 1),
        ))
    }

    fn is_anon(&self, name: &CStr) -> bool {
        // SAFETY: A file holds references to its inode and to its dentry.
        let (inode, dentry) = unsafe {
            (
                (*self.as_ptr()).f_inode,
                (*self.as_ptr()).__bindgen_anon_1.f_path.dentry,
            )
        };

        // SAFETY: The flag is set before the inode is used, and never cleared.
        if unsafe { (*inode).i_flags } & bindings::S_ANON_INODE == 0 {
            return false;
        }
        // SAFETY: The dentry of an anonymous inode is never renamed, so its name lives as long as
        // it does. The name is NUL-terminated.
        let own = unsafe { CStr::from_char_ptr((*dentry).__bindgen_anon_1.d_name.name.cast()) };
        own == name
    }

    fn same_owner(&self, other: &File) -> bool {
        operations(self).owner == operations(other).owner
    }
}
