// SPDX-License-Identifier: GPL-2.0

//! Software posted interrupts for KVM: the host's side.
//!
//! `/dev/pvirq` speaks the API of `/dev/kvm`. It forwards every call to the real device, and wraps the files of VMs and
//! vCPUs in files of its own, so that it sees each `KVM_RUN`. See `Documentation/overlay.rst`.
//!
//! # Lifetimes
//!
//! File references keep everything alive, and each of the module's files holds one to the module:
//!
//! - an open `/dev/pvirq` ([`Device`]) → the real `/dev/kvm`, opened with its opener's rights;
//! - a VM's file ([`VmFile`](overlay::vm_file::VmFile)) → KVM's file of that VM;
//! - a vCPU's file ([`Vcpu`](vcpu::Vcpu)) → KVM's file of that vCPU;
//! - both of the latter → [`Vm`](vm::Vm), the state that the files of one VM share;
//! - VMs → [`Host`], the state that all VMs share; open devices and VMs' files → [`Overlay`], the state that these
//!   share.
//!
//! A vCPU's file holds no reference to KVM's file of the VM: KVM frees the VM's irqfds when that file is closed, even
//! if vCPUs remain, and pvirq must not delay that.
//!
//! # Concurrency
//!
//! All of this is process context, except for the contexts that [`vcpu`] and [`injection::bindings`] name. The lock
//! order is in [`posting::registration`].
//!
//! # Layers
//!
//! Imports point down: [`overlay`] uses all others; [`vcpu`], [`injection`] and [`posting::registration`] use [`vm`],
//! which uses [`posting::descriptors`]; [`arch`] and [`kvm`] are the ground floor.

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
            description: "Longest time in ns for which an idle vCPU polls in the guest",
        },
        host_poll_ns: u32 {
            default: 0,
            description: "Longest time in ns for which the host then polls on its behalf",
        },
        poll_budget: u32 {
            default: 50,
            description: "Share of one CPU in percent that a VM's polling in the host may use",
        },
        bottom_half: u32 {
            default: 1,
            description: "Bottom half that signals eventfd sinks, if the VMM does not choose: 1 tasklet, 2 BH workqueue",
        },
        moderation_ns: u32 {
            default: 1_000_000,
            description: "Longest pause in ns between two kicks of a vCPU after a burst from eventfds; 0: none",
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
