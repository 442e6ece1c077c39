// SPDX-License-Identifier: GPL-2.0

//! Software posted interrupts for KVM: the host's side.
//!
//! `/dev/pvirq` speaks the API of `/dev/kvm`. It forwards every call to the real device, and wraps
//! the files of VMs and vCPUs in files of its own, so that it sees each `KVM_RUN`. See
//! `Documentation/overlay.rst`.
//!
//! # Lifetimes
//!
//! Everything hangs on file references, and each file of ours holds one to the module:
//!
//! - an open `/dev/pvirq` ([`device::Device`]) → the real `/dev/kvm` as its opener may use it;
//! - a VM's file ([`vm::VmFile`]) → KVM's file of that VM;
//! - a vCPU's file ([`vcpu::Vcpu`]) → KVM's file of that vCPU;
//! - both of the latter → [`vm::Vm`], what the files of one VM share;
//! - all of them → [`Overlay`], what the module is.
//!
//! A vCPU's file holds no reference to KVM's file of the VM: KVM drops the VM's irqfds as soon as
//! that file is closed, vCPUs or not, and so must we.
//!
//! # Concurrency
//!
//! All of this is process context, but for what [`vcpu`] and [`injector`] say of others. No lock is
//! held across a call to KVM, but for the one in [`vm`] that calls with a VM's descriptor as their
//! argument take, before any of KVM's.

use kernel::{
    debugfs,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

mod bottom_half;
mod counter;
mod descriptors;
mod descriptors_file;
mod device;
mod epoch;
mod extension;
mod guest_interface;
mod halt_poll;
mod injector;
mod kvm;
mod memory;
mod moderation;
mod msi;
mod poller;
mod polling;
mod ports;
mod registration;
mod run_area;
mod source;
mod statistics;
mod target;
mod vcpu;
mod vm;
mod wrap;

use bottom_half::BottomHalves;
use device::Device;
use epoch::Epochs;
use injector::Injector;
use kernel_ext::cdev::Registration;
use kvm::Kvm;
use ports::Ports;
use pvirq_protocol::ioctl::Poll;
use statistics::Statistics;

module! {
    type: Module,
    name: "pvirq",
    authors: ["The pvirq developers"],
    description: "Software posted interrupts for KVM",
    license: "GPL",
    params: {
        port: u16 {
            default: pvirq_protocol::port::BASE,
            description: "First I/O port of the guest interface",
        },
        guest_poll_ns: u32 {
            default: 200_000,
            description: "Longest time an idle vCPU polls in the guest",
        },
        host_poll_ns: u32 {
            default: 0,
            description: "Longest time the host then polls for it",
        },
        poll_budget: u32 {
            default: 50,
            description: "Percent of a CPU that a VM's polling in the host may burn",
        },
        bottom_half: u32 {
            default: 1,
            description: "What delivers interrupts from eventfds: 1 a tasklet, 2 a BH workqueue",
        },
        moderation_ns: u32 {
            default: 1_000_000,
            description: "Longest time that interrupts from eventfds wait for each other after a burst; 0: they do not",
        },
    },
}

/// What all files of the module share.
#[pin_data]
struct Overlay {
    kvm: Kvm,
    ports: Ports,
    /// How the vCPUs of new VMs poll.
    poll: Poll,
    bottom_halves: BottomHalves,
    /// How long the vCPUs of new VMs are left alone after a burst, at most.
    moderation_ns: u32,
    #[pin]
    injector: Injector,
    epochs: Epochs,
    /// Held while a descriptor of a VM refers to KVM's file instead of ours, see [`vm`].
    #[pin]
    lending: Mutex<()>,
    #[pin]
    statistics: Statistics,
}

impl Overlay {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            kvm: Kvm::find()?,
            ports: Ports::new(module_parameters::port.value())?,
            poll: polling::parameters(
                module_parameters::guest_poll_ns.value(),
                module_parameters::host_poll_ns.value(),
                module_parameters::poll_budget.value(),
            )?,
            bottom_halves: BottomHalves::new(module_parameters::bottom_half.value())?,
            moderation_ns: moderation::parameter(module_parameters::moderation_ns.value())?,
            injector <- Injector::new(),
            epochs: Epochs::new(),
            lending <- new_mutex!(()),
            statistics <- Statistics::new(),
        })
    }
}

#[pin_data]
struct Module {
    _device: Registration<Device>,
    #[pin]
    _debugfs: debugfs::Scope<Arc<Overlay>>,
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let overlay = Arc::pin_init(Overlay::new(), GFP_KERNEL)?;

            Ok(try_pin_init!(Self {
                _debugfs <- statistics::debugfs(overlay.clone()),
                _device: Registration::register(overlay)?,
            }))
        })
    }
}
