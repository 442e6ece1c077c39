// SPDX-License-Identifier: GPL-2.0

//! Wrapping of the files that KVM creates.
//!
//! KVM itself makes the descriptor that `KVM_CREATE_VM` and `KVM_CREATE_VCPU` return. We let it,
//! and then put our file where KVM's is: the number is the one that KVM would have returned, and
//! running out of descriptors is KVM's to report. All that can fail on our side is done before KVM
//! is called, as there is no way to take the creation of a vCPU back.
//!
//! # Concurrency
//!
//! From when KVM has made the descriptor until our file takes its place, another thread of the
//! process can see KVM's own file under that number, which no call has returned yet. It can use it,
//! which is no more than it can do with `/dev/kvm`. It can also close the number or make it refer
//! to another file: then we do what KVM does, which is nothing.

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

/// Makes the call `request` on `real`, which creates a file that KVM calls `name`, and wraps that
/// file in one of ours.
///
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
            // If the descriptor has changed hands meanwhile, our file goes, and with it the last of
            // KVM's.
            let _ = request.replace(fd, &inner, wrapper.with_data(wrap(inner.clone())));
        }
    }
    Ok(number)
}
