// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Messages that interrupt a vCPU, and the routes that lead to them.

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi, KvmIrqRouting, KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;

use crate::error::Error;

/// The first GSI that is no pin of an interrupt controller.
pub const FIRST_GSI: u32 = 24;

/// Returns the address of messages to a vCPU.
pub fn address(vcpu: u32) -> u32 {
    0xfee0_0000 | (vcpu << 12)
}

/// Returns a route from a GSI to a vector of a vCPU.
pub fn route(gsi: u32, vcpu: u32, vector: u8) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: address(vcpu),
        data: vector.into(),
        ..Default::default()
    };
    entry
}

/// Sets all routes of a VM.
pub fn set_routes(vm: &VmFd, routes: &[kvm_irq_routing_entry]) -> Result<(), Error> {
    let routing = KvmIrqRouting::from_entries(routes)
        .map_err(|error| Error::Memory(format!("no room for routes: {error:?}")))?;
    vm.set_gsi_routing(&routing)
        .map_err(Error::kvm("KVM_SET_GSI_ROUTING"))
}

/// Interrupts a vCPU by a message.
pub fn signal(vm: &VmFd, vcpu: u32, vector: u8) -> Result<(), Error> {
    let message = kvm_msi {
        address_lo: address(vcpu),
        data: vector.into(),
        ..Default::default()
    };
    vm.signal_msi(message)
        .map(drop)
        .map_err(Error::kvm("KVM_SIGNAL_MSI"))
}
