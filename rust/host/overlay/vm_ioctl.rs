// SPDX-License-Identifier: GPL-2.0

//! pvirq's own ioctls on the file of a VM, see [`pvirq_protocol::ioctl`].

use kernel::{
    fs::{
        file::{
            flags,
            FileDescriptorReservation, //
        },
        File, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use kernel_ext::{
    fs::eventfd::EventFd,
    fs::file::FileExt,
    fs::ioctl::Ioctl, //
};
use pvirq_protocol::{
    ioctl,
    Vector, //
};

use super::argument::{
    check,
    read,
    write, //
};
use crate::{
    injection::{
        bindings::{
            Bind,
            Bindings, //
        },
        sink::Sink, //
    },
    kvm::KVM_CHECK_EXTENSION,
    posting::descriptors_file::DescriptorsFile,
    vm::{
        kick_target::KickTarget,
        Vm, //
    }, //
};

mod posting;

/// Refuses all processes but the one that has made the VM: KVM does, and this call has no other effect.
fn check_process(real: &File) -> Result {
    real.call(KVM_CHECK_EXTENSION, 0)?;
    Ok(())
}

/// Returns the file that `fd` refers to, and its eventfd.
fn eventfd_file(request: Ioctl<'_>, fd: i32) -> Result<(ARef<File>, EventFd)> {
    let file = u32::try_from(fd)
        .ok()
        .and_then(|fd| request.fget(fd).ok())
        .ok_or(EBADF)?;
    let eventfd = EventFd::from_file(&file).map_err(|_| EBADFD)?;

    Ok((file, eventfd))
}

/// Serves the ioctl `request` on the file of `vm`, whose file in KVM is `real`. Returns `None` if it is not one of
/// pvirq's.
pub(super) fn ioctl(
    vm: &Arc<Vm>,
    bindings: &Bindings,
    real: &File,
    request: Ioctl<'_>,
) -> Option<Result<isize>> {
    Some(match request.cmd() {
        ioctl::GET_VERSION => Ok(ioctl::VERSION as isize),
        ioctl::SET_POLL => set_poll(vm, request),
        ioctl::GET_POLL => get_poll(vm, request),
        ioctl::BIND => bind(vm, bindings, real, request),
        ioctl::UNBIND => unbind(vm, bindings, request),
        ioctl::GET_SOURCE => get_source(vm, bindings, request),
        ioctl::GET_BOTTOM_HALF => get_bottom_half(vm, request),
        ioctl::MAP_DESCRIPTORS => map_descriptors(vm, real, request),
        _ => return posting::ioctl(vm, real, request),
    })
}

fn set_poll(vm: &Vm, request: Ioctl<'_>) -> Result<isize> {
    vm.polling.set(&read(request)?)?;
    vm.update_halt_poll();
    Ok(0)
}

fn get_poll(vm: &Vm, request: Ioctl<'_>) -> Result<isize> {
    let _: ioctl::Poll = read(request)?;

    write(request, vm.polling.get())
}

fn bind(vm: &Arc<Vm>, bindings: &Bindings, real: &File, request: Ioctl<'_>) -> Result<isize> {
    let bind: ioctl::Bind = read(request)?;
    check(bind.is_valid())?;
    let kind = vm.host.bottom_halves.kind(bind.bottom_half);
    check_process(real)?;

    let (file, _) = eventfd_file(request, bind.source)?;
    let sink = match bind.flags & ioctl::Bind::SINK {
        0 => Sink::Kick,
        _ => Sink::EventFd(eventfd_file(request, bind.sink)?.1),
    };
    let post = match bind.flags & ioctl::Bind::POST {
        0 => None,
        _ => Some(target(vm, &bind)?),
    };
    if let (Sink::Kick, Some((target, _))) = (&sink, &post) {
        vm.prepare_kicks(target)?;
    }
    let bind = Bind {
        file,
        post,
        sink,
        kind: kind.ok_or(EINVAL)?,
    };
    bindings.bind(vm, bind)?;
    Ok(0)
}

/// Returns the vCPU and the vector that a signal of the source is posted to.
fn target(vm: &Vm, bind: &ioctl::Bind) -> Result<(Arc<KickTarget>, Vector)> {
    let vector = u8::try_from(bind.vector).map_err(|_| ERANGE)?;
    let vector = Vector::new(vector).map_err(|_| ERANGE)?;
    let target = vm.target(bind.vcpu).ok_or(ENOENT)?;
    let guard = kernel::sync::rcu::read_lock();

    vm.descriptors
        .get(&guard)
        .and_then(|descriptors| descriptors.get(bind.vcpu))
        .ok_or(ENXIO)?;
    drop(guard);
    Ok((target, vector))
}

fn unbind(vm: &Arc<Vm>, bindings: &Bindings, request: Ioctl<'_>) -> Result<isize> {
    let unbind: ioctl::Unbind = read(request)?;
    check(unbind.is_valid())?;
    let (_, eventfd) = eventfd_file(request, unbind.source)?;

    bindings.unbind(vm, &eventfd)?;
    Ok(0)
}

fn get_source(vm: &Arc<Vm>, bindings: &Bindings, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::Source = read(request)?;
    check(asked.is_valid())?;
    let (_, eventfd) = eventfd_file(request, asked.source)?;
    let counted = bindings.counted(vm, &eventfd)?;

    write(
        request,
        ioctl::Source {
            size: asked.size,
            source: asked.source,
            ..counted
        },
    )
}

fn get_bottom_half(vm: &Vm, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::BottomHalf = read(request)?;
    check(asked.is_valid())?;
    let bottom_halves = &vm.host.bottom_halves;
    let kind = bottom_halves.kind(asked.kind).ok_or(EINVAL)?;
    let counted = bottom_halves.counted(asked.cpu, kind).ok_or(ENOENT)?;

    write(
        request,
        ioctl::BottomHalf {
            size: asked.size,
            cpu: asked.cpu,
            kind: asked.kind,
            ..counted
        },
    )
}

fn map_descriptors(vm: &Vm, real: &File, request: Ioctl<'_>) -> Result<isize> {
    let asked: ioctl::Map = read(request)?;
    check(asked.is_valid())?;
    check_process(real)?;

    let guard = kernel::sync::rcu::read_lock();
    let descriptors = vm.descriptors.get(&guard).ok_or(ENXIO)?;
    let (pages, offset, count) = descriptors.revocable_pages();
    drop(guard);
    let file = DescriptorsFile::create(&pages)?;
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let number = fd.reserved_fd() as isize;

    write(
        request,
        ioctl::Map {
            size: asked.size,
            flags: asked.flags,
            offset,
            count,
        },
    )?;
    fd.fd_install(file);
    Ok(number)
}
