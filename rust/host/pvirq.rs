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
//! - an open `/dev/pvirq` ([`Device`]) → the real `/dev/kvm`, opened with its opener's rights;
//! - a VM's file ([`VmFile`](overlay::vm_file::VmFile)) → KVM's file of that VM;
//! - a vCPU's file ([`Vcpu`](vcpu::Vcpu)) → KVM's file of that vCPU;
//! - both of the latter → [`Vm`](vm::Vm), what the files of one VM share;
//! - VMs → [`Host`], what all VMs share; open devices and VMs' files → [`Overlay`], what these files share.
//!
//! A vCPU's file holds no reference to KVM's file of the VM: KVM drops the VM's irqfds as soon as
//! that file is closed, vCPUs or not, and so must we.
//!
//! # Concurrency
//!
//! All of this is process context, but for the contexts that [`vcpu`] and [`injection::bindings`] name. The order of
//! locks is in [`posting::registration`]; [`Overlay::lending`] is taken before all of them.
//!
//! # Layers
//!
//! Imports point down: [`overlay`] knows all others; [`vcpu`], [`injection`] and [`posting::registration`] know [`vm`];
//! that knows the descriptors; [`arch`] and [`kvm`] are the ground floor.

use kernel::{
    debugfs,
    prelude::*,
    sync::Arc, //
};

mod arch;
mod host;
mod injection;
mod kvm;
mod overlay;
mod posting;
mod stats;
mod vcpu;
mod vm;

use host::{
    Host,
    Parameters, //
};
use kernel_ext::fs::cdev::Registration;
use overlay::{
    device::Device,
    Overlay, //
};

module! {
    type: Module,
    name: "pvirq",
    authors: ["The pvirq developers"],
    description: "Software posted interrupts for KVM",
    license: "GPL",
    params: {
        port: u16 {
            default: pvirq_protocol::registers::BASE,
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

#[pin_data]
struct Module {
    _device: Registration<Device>,
    #[pin]
    _debugfs: debugfs::Scope<Arc<Host>>,
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let parameters = Parameters {
                port: module_parameters::port.value(),
                guest_poll_ns: module_parameters::guest_poll_ns.value(),
                host_poll_ns: module_parameters::host_poll_ns.value(),
                poll_budget: module_parameters::poll_budget.value(),
                bottom_half: module_parameters::bottom_half.value(),
                moderation_ns: module_parameters::moderation_ns.value(),
            };
            let host = Arc::pin_init(Host::new(parameters), GFP_KERNEL)?;
            let overlay = Arc::pin_init(Overlay::new(host.clone()), GFP_KERNEL)?;

            Ok(try_pin_init!(Self {
                _debugfs <- stats::debugfs::show(host),
                _device: Registration::register(overlay)?,
            }))
        })
    }
}
