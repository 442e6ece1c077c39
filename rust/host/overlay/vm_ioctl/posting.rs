// SPDX-License-Identifier: GPL-2.0

//! The ioctls by which a VMM controls posting: they allow and end registrations, and read and write the vectors that
//! are posted to a vCPU.

use kernel::{
    fs::File,
    prelude::*,
    sync::rcu, //
};
use kernel_ext::fs::ioctl::Ioctl;
use pvirq_protocol::{
    ioctl::{
        self,
        EndReason, //
    },
    Vectors, //
};

use super::check_process;
use crate::{
    arch::VmEvents,
    overlay::argument::{
        check,
        read,
        write, //
    },
    vm::Vm, //
};

/// Serves the ioctl `request` on the file of `vm`, whose file in KVM is `real`. Returns `None` if it is not one of
/// these.
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

    // Reserved vectors are a mistake of the guest; they are dropped when the descriptor is drained.
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
    // A vector for a vCPU that cannot be addressed could reach all others.
    if !vm.irqchip.is_ready() || asked.vcpu >= vm.irqchip.max_descriptors() {
        return Err(ENXIO);
    }

    vm.prepare_kicks(&target)?;
    target.kick_all(vectors);
    Ok(0)
}
