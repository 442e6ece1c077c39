// SPDX-License-Identifier: GPL-2.0

//! The state that all VMs of the module share.

use kernel::prelude::*;
use pvirq_protocol::ioctl::Poll;

use crate::{
    arch::Ports,
    injection::softirq::BottomHalves,
    kvm::Kvm,
    posting::epoch::Epochs,
    stats::totals::Totals,
    vm::moderation,
    vm::polling, //
};

/// The module's parameters, unchecked.
pub(crate) struct Parameters {
    pub(crate) port: u16,
    pub(crate) guest_poll_ns: u32,
    pub(crate) host_poll_ns: u32,
    pub(crate) poll_budget: u32,
    pub(crate) bottom_half: u32,
    pub(crate) moderation_ns: u32,
}

/// The state that all VMs share.
#[pin_data]
pub(crate) struct Host {
    pub(crate) kvm: Kvm,
    pub(crate) ports: Ports,
    /// How idle vCPUs poll in a new VM.
    pub(crate) poll: Poll,
    pub(crate) bottom_halves: BottomHalves,
    /// The longest pause between two kicks of a vCPU, see [`moderation`].
    pub(crate) moderation_ns: u32,
    pub(crate) epochs: Epochs,
    #[pin]
    pub(crate) totals: Totals,
}

impl Host {
    /// Opens the real KVM, and checks the parameters.
    pub(crate) fn new(parameters: Parameters) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            kvm: Kvm::find()?,
            ports: Ports::new(parameters.port)?,
            poll: polling::parameters(
                parameters.guest_poll_ns,
                parameters.host_poll_ns,
                parameters.poll_budget,
            )?,
            bottom_halves: BottomHalves::new(parameters.bottom_half)?,
            moderation_ns: moderation::parameter(parameters.moderation_ns)?,
            epochs: Epochs::new(),
            totals <- Totals::new(),
        })
    }
}
