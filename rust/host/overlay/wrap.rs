// SPDX-License-Identifier: GPL-2.0

//! Wrapping of the files that KVM creates.
//!
//! `KVM_CREATE_VM` and `KVM_CREATE_VCPU` create a file and its descriptor. Our file then replaces KVM's in that
//! descriptor: its number is KVM's choice, and KVM reports if there is none left. Everything on our side that can fail
//! is done before KVM is called, as the creation of a vCPU cannot be undone.
//!
//! # Concurrency
//!
//! Before our file replaces KVM's, another thread of the process can guess the descriptor, which no call has returned
//! yet, and use KVM's file. That gives it no more than `/dev/kvm` does. If it closes the descriptor or makes it refer
//! to another file, our file is dropped, and the call returns as KVM's own would.

use kernel::{
    fs::{
        file::flags,
        File, //
    },
    prelude::*,
    sync::aref::ARef, //
};
use kernel_ext::{
    fs::anon_inode::AnonFile,
    fs::file::FileExt,
    fs::file_operations::FileOperations,
    fs::ioctl::Ioctl, //
};

use crate::kvm::Kvm;

/// Makes the call `request` on `real`, which creates a file that KVM names `name`, and wraps that file in one of ours.
/// `wrap` gets KVM's file and returns the private data of ours.
pub(crate) fn create<T: FileOperations>(
    kvm: &Kvm,
    real: &File,
    request: Ioctl<'_>,
    name: &CStr,
    wrap: impl FnOnce(ARef<File>) -> T::Data,
) -> Result<isize> {
    let wrapper = AnonFile::<T>::new(name, flags::O_RDWR)?;
    let number = real.ioctl(request)?;
    let fd = u32::try_from(number)?;

    if let Ok(inner) = request.fget(fd) {
        if kvm.made(&inner, name) {
            // If another thread has changed the descriptor meanwhile, this drops our file, and the last reference to
            // KVM's with it.
            let _ = request.replace(fd, &inner, wrapper.with_data(wrap(inner.clone())));
        }
    }
    Ok(number)
}
