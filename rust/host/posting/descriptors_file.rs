// SPDX-License-Identifier: GPL-2.0

//! Files by which a VMM maps its guest's descriptors, see
//! [`MAP_DESCRIPTORS`](pvirq_protocol::ioctl::MAP_DESCRIPTORS).
//!
//! Such a file is of one registration, and stays when that ends: what is mapped then are blank
//! descriptors. It holds nothing of the VM, nor the guest's pages.
//!
//! # Concurrency
//!
//! That of [`RevocablePages`], which is closed before what is pending in the descriptors is delivered. A post that
//! began in the guest's descriptor and ends in a blank one is among that, if its bit was set before: it
//! finds no bit to take back, as if the vCPU had looked. One whose bit is set in the blank one finds nobody
//! who looks there, and takes it back.

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
    /// Makes a file by which what is in a window can be mapped.
    pub(crate) fn create(window: &Arc<RevocablePages>) -> Result<ARef<File>> {
        let new = AnonFile::<Self>::with_inode(c"pvirq-descriptors", flags::O_RDWR)?;
        let this = Self(window.open(new.file())?);

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
