// SPDX-License-Identifier: GPL-2.0

//! File operations implemented in Rust.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! # Concurrency
//!
//! All operations run in process context, and any number of them run on one file at the same time.
//! They borrow what the file's `private_data` owns; only `release` takes it, when the last
//! reference to the file is gone.

use core::marker::PhantomData;
use kernel::{
    bindings,
    error::VTABLE_DEFAULT_ERROR,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::File,
    mm::virt::VmaNew,
    module::this_module,
    prelude::*,
    seq_file::SeqFile,
    types::ForeignOwnable, //
};

use crate::fs::ioctl::{
    Abi,
    Ioctl, //
};

/// A file's private data, as its operations borrow it.
pub type Borrowed<'a, T> = <<T as FileOperations>::Data as ForeignOwnable>::Borrowed<'a>;

/// The operations of a kind of file.
#[vtable]
pub trait FileOperations: Sized + 'static {
    /// The pointer that a file owns as its private data.
    type Data: ForeignOwnable + Send + Sync;

    /// Returns the table of these operations: a `static` of the implementer, as its address
    /// identifies the kind of file, see [`FileOps::data`].
    fn table() -> &'static FileOps<Self>;

    /// Called when the last reference to the file is gone.
    fn release(data: Self::Data) {
        drop(data);
    }

    /// Handles an ioctl of a native or compat task.
    fn ioctl(data: Borrowed<'_, Self>, request: Ioctl<'_>) -> Result<isize>;

    /// Sets up a new mapping.
    fn mmap(_data: Borrowed<'_, Self>, _vma: &VmaNew) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Adds lines to the `/proc/PID/fdinfo` file of a descriptor.
    fn show_fdinfo(_data: Borrowed<'_, Self>, _m: &SeqFile) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The `open` of a table.
pub(crate) type OpenFn = unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int;

/// A table of file operations.
///
/// # Invariants
///
/// The private data of a file with this table is either null or a pointer that
/// `T::Data::into_foreign` returned.
#[repr(transparent)]
pub struct FileOps<T: FileOperations> {
    table: bindings::file_operations,
    _operations: PhantomData<fn(T)>,
}

// SAFETY: The table is never written to.
unsafe impl<T: FileOperations> Sync for FileOps<T> {}

impl<T: FileOperations> FileOps<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        llseek: Some(bindings::noop_llseek),
        release: Some(Self::release),
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(Self::compat_ioctl),
        mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
        show_fdinfo: if T::HAS_SHOW_FDINFO {
            Some(Self::show_fdinfo)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Makes the table for files that are not opened by `open(2)`.
    #[expect(clippy::new_without_default, reason = "only ever used for statics")]
    pub const fn new() -> Self {
        Self {
            table: Self::TABLE,
            _operations: PhantomData,
        }
    }

    /// Makes the table for files that `open(2)` opens by calling `open`.
    ///
    /// # Safety
    ///
    /// `open` must set the file's private data to a pointer that `T::Data::into_foreign` returned, or
    /// fail.
    pub(crate) const unsafe fn with_open(open: OpenFn) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            table: bindings::file_operations {
                open: Some(open),
                ..Self::TABLE
            },
            _operations: PhantomData,
        }
    }

    /// Returns whether this is a table for a character device.
    pub(crate) fn is_for_device(&self) -> bool {
        self.table.open.is_some()
    }

    /// Returns the raw table.
    pub(crate) fn as_ptr(&'static self) -> *const bindings::file_operations {
        &self.table
    }

    /// Returns the private data of `file` if it has this very table.
    pub fn data<'a>(&'static self, file: &'a File) -> Option<Borrowed<'a, T>> {
        // SAFETY: Neither field changes while the file can be referred to.
        let (ops, data) = unsafe { ((*file.as_ptr()).f_op, (*file.as_ptr()).private_data) };

        if ops != self.as_ptr() || data.is_null() {
            return None;
        }

        // SAFETY: By the type invariants `data` came from `into_foreign`. `release` takes it only
        // when there is no reference to the file left.
        Some(unsafe { T::Data::borrow(data) })
    }

    /// # Safety
    ///
    /// `file` must be a file with this table, its private data must not be null, and the file must
    /// not be released for the duration of `'a`.
    unsafe fn borrow<'a>(file: *mut bindings::file) -> Borrowed<'a, T> {
        // SAFETY: By the safety requirements and the type invariants the file's private data came
        // from `into_foreign`, and `release` takes it only after `'a`.
        unsafe { T::Data::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as `release` of a file with this table.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: There is no other reference to the file left, so nothing borrows its private data,
        // which by the type invariants is null or came from `into_foreign`.
        if let Some(data) = unsafe { T::Data::try_from_foreign((*file).private_data) } {
            T::release(data);
        }
        0
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as an ioctl handler of a file with this table.
    #[inline(always)]
    unsafe fn do_ioctl(file: *mut bindings::file, abi: Abi, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The caller holds a reference to the file throughout, and has it from a descriptor;
        // a file gets its private data before its descriptor. An ioctl does not use the file
        // position.
        let (data, request) = unsafe {
            let request = Ioctl::new(File::from_raw_file(file), abi, cmd, arg);
            (Self::borrow(file), request)
        };

        match T::ioctl(data, request) {
            Ok(value) => value,
            Err(err) => err.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as `unlocked_ioctl` of a file with this table.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: This is an ioctl handler.
        unsafe { Self::do_ioctl(file, Abi::Native, cmd, arg) }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as `compat_ioctl` of a file with this table.
    #[cfg(CONFIG_COMPAT)]
    unsafe extern "C" fn compat_ioctl(
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // SAFETY: This is an ioctl handler.
        unsafe { Self::do_ioctl(file, Abi::Compat, cmd, arg) }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as `mmap` of a file with this table.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: As for `ioctl`; and the kernel calls `mmap` while it sets up `vma`.
        let (data, vma) = unsafe { (Self::borrow(file), VmaNew::from_raw(vma)) };

        match T::mmap(data, vma) {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, as `show_fdinfo` of a file with this table.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: As for `ioctl`; and only this call uses `m` meanwhile.
        let (data, m) = unsafe { (Self::borrow(file), SeqFile::from_raw(m)) };

        T::show_fdinfo(data, m);
    }
}
