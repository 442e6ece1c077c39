// SPDX-License-Identifier: GPL-2.0

//! The ioctls by which a VMM has a say in posting: whether the guest may register descriptors, whether it has, and what is
//! posted to a vCPU.

use kernel::{
    fs::File,
    prelude::*,
    sync::rcu,
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};
use kernel_ext::{
    fs::file::FileExt,
    fs::ioctl::Ioctl, //
};
use pvirq_protocol::{
    ioctl::{
        self,
        EndReason, //
    },
    Vectors, //
};

use super::{
    check,
    read,
    write,
    Wire, //
};
use crate::{
    arch::VmEvents,
    kvm::KVM_CHECK_EXTENSION,
    vm::Vm, //
};

// SAFETY: It is a row of `u32`, without padding between them.
unsafe impl FromBytes for Wire<ioctl::Posting> {}
// SAFETY: It is six `u32` and then a row of `u64`, without padding between them.
unsafe impl FromBytes for Wire<ioctl::Registration> {}
// SAFETY: As above.
unsafe impl AsBytes for Wire<ioctl::Registration> {}
// SAFETY: It is four `u32` and then a row of `u64`, without padding between them.
unsafe impl FromBytes for Wire<ioctl::Posted> {}
// SAFETY: As above.
unsafe impl AsBytes for Wire<ioctl::Posted> {}

/// Makes the ioctl `request` on the file of `vm`, which is `real` in KVM. Returns nothing if it is not of these.
pub(super) fn ioctl(vm: &Vm, real: &File, request: Ioctl<'_>) -> Option<Result<isize>> {
    Some(match request.cmd() {
        ioctl::SET_POSTING => set_posting(vm, real, request),
        ioctl::GET_REGISTRATION => get_registration(vm, request),
        ioctl::END_REGISTRATION => end_registration(vm, real),
        ioctl::GET_POSTED => get_posted(vm, request),
        ioctl::SET_POSTED => set_posted(vm, real, request),
        _ => return None,
    })
}

/// Refuses other processes than the one that has made the VM, as KVM does.
fn check_process(real: &File) -> Result {
    real.call(KVM_CHECK_EXTENSION, 0)?;
    Ok(())
}

fn set_posting(vm: &Vm, real: &File, request: Ioctl<'_>) -> Result<isize> {
    let posting: ioctl::Posting = read(request)?;
    check(posting.is_valid())?;
    check_process(real)?;

    vm.set_allowed(posting.allowed != 0);
    Ok(0)
}

fn get_registration(vm: &Vm, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::Registration = read(request)?;
    check(asked.is_valid())?;

    write(request, vm.registration())
}

fn end_registration(vm: &Vm, real: &File) -> Result<isize> {
    check_process(real)?;

    match vm.end(EndReason::Vmm) {
        true => Ok(0),
        false => Err(ENXIO),
    }
}

fn get_posted(vm: &Vm, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::Posted = read(request)?;
    check(asked.is_valid())?;
    let target = vm.target(asked.vcpu).ok_or(ENOENT)?;
    let guard = rcu::read_lock();
    let in_guest = vm
        .descriptors
        .get(&guard)
        .and_then(|descriptors| Some(descriptors.get(asked.vcpu)?.pending()))
        .unwrap_or_default();
    drop(guard);
    let kicks = target.kicks().words();
    let words = in_guest.words();
    let mut posted = Vectors::from_words(core::array::from_fn(|index| words[index] | kicks[index]));

    // They are the guest's mistake, and will be dropped.
    posted.remove_reserved();
    write(
        request,
        ioctl::Posted {
            vectors: posted.words(),
            ..asked
        },
    )
}

fn set_posted(vm: &Vm, real: &File, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::Posted = read(request)?;
    let mut vectors = Vectors::from_words(asked.vectors);
    check(asked.is_valid() && vectors.remove_reserved() == 0)?;
    check_process(real)?;
    let target = vm.target(asked.vcpu).ok_or(ENOENT)?;
    // To the first of the APIC IDs that are out of reach a message would go to all.
    if !vm.irqchip.is_ready() || asked.vcpu >= vm.irqchip.max_descriptors() {
        return Err(ENXIO);
    }

    vm.prepare_kicks(&target)?;
    target.kick_all(vectors);
    Ok(0)
}
