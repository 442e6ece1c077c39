// SPDX-License-Identifier: GPL-2.0

//! The descriptors of this guest's vCPUs.

use kernel::prelude::*;
use kernel_ext_cpu::{
    memory,
    topology::{
        apic_id,
        possible_cpus, //
    }, //
};
use pvirq_protocol::{
    port::Array,
    Descriptor, //
};

/// A descriptor as an array of them has to be aligned.
#[repr(C, align(256))]
struct Aligned(Descriptor);

const _: () = assert!(align_of::<Aligned>() as u64 == pvirq_protocol::port::ARRAY_ALIGN);
const _: () = assert!(size_of::<Aligned>() == size_of::<Descriptor>());

/// An array with a descriptor for each APIC ID.
#[derive(Default)]
pub(crate) struct Descriptors(KVec<Aligned>);

impl Descriptors {
    /// Makes descriptors for the vCPUs that there can be, `max` at most.
    ///
    /// CPUs that are plugged in later have APIC IDs that nobody knows yet. There is room for as many
    /// as may come, if they follow those that are known, and up to the next power of two; what is
    /// beyond has no descriptor.
    pub(crate) fn new(max: u32) -> Result<Self> {
        let mut count = 0_u32;
        let mut unknown = 0_u32;
        for cpu in possible_cpus() {
            match apic_id(cpu) {
                Some(id) => count = count.max(id.saturating_add(1)),
                None => unknown = unknown.saturating_add(1),
            }
        }
        if unknown > 0 {
            let wanted = count.saturating_add(unknown);
            count = wanted.checked_next_power_of_two().unwrap_or(wanted);
        }
        let count = count.clamp(1, max.max(1)) as usize;

        let mut array = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            array.push(Aligned(Descriptor::new()), GFP_KERNEL)?;
        }
        Ok(Self(array))
    }

    /// Leaves the memory to the host forever.
    pub(crate) fn leak(self) {
        core::mem::forget(self);
    }

    /// Returns the descriptor of the vCPU with an APIC ID.
    #[inline]
    pub(crate) fn get(&self, apic_id: u32) -> Option<&Descriptor> {
        Some(&self.0.get(apic_id as usize)?.0)
    }

    /// Returns where they are, for the host.
    pub(crate) fn array(&self) -> Array {
        Array {
            address: memory::physical_address(&self.0),
            // As many as `new` has counted.
            count: self.0.len() as u32,
        }
    }
}
