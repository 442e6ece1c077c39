// SPDX-License-Identifier: GPL-2.0

//! Files by which a VMM maps its guest's descriptors, see [`MAP_DESCRIPTORS`](pvirq_protocol::ioctl::MAP_DESCRIPTORS).
//!
//! A file belongs to one registration. When that ends, the file stays, and its mappings show blank descriptors. It
//! keeps neither the VM nor the guest's pages.
//!
//! # Concurrency
//!
//! See [`RevocablePages`], which are closed before the vectors pending in the descriptors are injected. A post can
//! begin in the guest's descriptor and end in a blank one. If its bit was set before the pages were closed, it is
//! injected with the others, and the post finds no bit to take back, as if the vCPU had polled. If its bit was set in
//! the blank descriptor, which no vCPU polls, the post takes it back and returns `Kick`.

use kernel::{
    fs::{
        file::flags,
        File, //
    },
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};
use kernel_ext::{
    fs::anon_inode::AnonFile,
    fs::file_operations::{
        FileOperations,
        FileOps, //
    },
    fs::ioctl::Ioctl,
    mm::revocable_pages::{
        Opened,
        RevocablePages, //
    }, //
};

/// A file of descriptors.
pub(crate) struct DescriptorsFile(Opened);

impl DescriptorsFile {
    /// Creates a file by which `pages` can be mapped.
    pub(crate) fn create(pages: &Arc<RevocablePages>) -> Result<ARef<File>> {
        let new = AnonFile::<Self>::with_inode(c"pvirq-descriptors", flags::O_RDWR)?;
        let this = Self(pages.open(new.file())?);

        Ok(new.with_data(KBox::new(this, GFP_KERNEL_ACCOUNT)?))
    }
}

#[vtable]
impl FileOperations for DescriptorsFile {
    type Data = KBox<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<DescriptorsFile> = FileOps::new();
        &TABLE
    }

    fn ioctl(_this: &Self, _request: Ioctl<'_>) -> Result<isize> {
        Err(ENOTTY)
    }

    fn mmap(this: &Self, vma: &VmaNew) -> Result {
        this.0.mmap(vma)
    }
}
