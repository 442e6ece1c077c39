// SPDX-License-Identifier: GPL-2.0

//! `/dev/pvirq`.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};
use kernel_ext::{
    fs::cdev::CharDevice,
    fs::file::FileExt,
    fs::file_operations::{
        FileOperations,
        FileOps, //
    },
    fs::ioctl::Ioctl, //
};

use super::{
    vm_file::VmFile,
    Overlay, //
};
use crate::kvm::KVM_CREATE_VM;

/// An open `/dev/pvirq`.
pub(crate) struct Device {
    /// The real device, opened with the rights of the task that opened ours.
    real: ARef<File>,
    overlay: Arc<Overlay>,
}

impl CharDevice for Device {
    type Context = Arc<Overlay>;

    const NAME: &'static CStr = c"pvirq";

    /// Any task may open our node: the real device decides which may use KVM.
    const MODE: u16 = 0o666;

    fn open(overlay: &Arc<Overlay>, file: &File) -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                real: overlay.host.kvm.open(file.flags())?,
                overlay: overlay.clone(),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }
}

#[vtable]
impl FileOperations for Device {
    type Data = KBox<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<Device> = FileOps::for_device();
        &TABLE
    }

    fn ioctl(this: &Self, request: Ioctl<'_>) -> Result<isize> {
        match request.cmd() {
            KVM_CREATE_VM => VmFile::create(&this.overlay, &this.real, request),
            _ => this.real.ioctl(request),
        }
    }
}
