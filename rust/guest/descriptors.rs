// SPDX-License-Identifier: GPL-2.0

//! The descriptors of this guest's vCPUs.

use kernel::prelude::*;
use kernel_ext_cpu::{
    memory::PageArray,
    topology::{
        possible_cpus, //
    }, //
};
use pvirq_protocol::{
    registers::{
        Array,
        ARRAY_ALIGN, //
    },
    Descriptor, //
};

use crate::arch::{
    Addresses,
    CpuAddress, //
};

// Pages are aligned to more.
const _: () = assert!(size_of::<Descriptor>() as u64 % ARRAY_ALIGN == 0);

/// An array with a descriptor for each vCPU that there can be. The host shares its pages, in which there is nothing else.
pub(crate) struct Descriptors(PageArray<Descriptor>);

impl Descriptors {
    /// Makes descriptors for all possible vCPUs, `max` at most.
    ///
    /// The indices of CPUs that are plugged in later are not known yet. They have descriptors if they
    /// follow the known ones, up to the next power of two.
    pub(crate) fn new(max: u32) -> Result<Self> {
        let mut count = 0_u32;
        let mut unknown = 0_u32;
        for cpu in possible_cpus() {
            match Addresses::index_of(cpu) {
                Some(id) => count = count.max(id.saturating_add(1)),
                None => unknown = unknown.saturating_add(1),
            }
        }
        if unknown > 0 {
            let wanted = count.saturating_add(unknown);
            count = wanted.checked_next_power_of_two().unwrap_or(wanted);
        }
        let count = count.clamp(1, max.max(1)) as usize;

        Ok(Self(PageArray::new(count, Descriptor::new)?))
    }

    /// Leaks the memory, as the host may still use it.
    pub(crate) fn keep(&mut self) {
        self.0.keep();
    }

    /// Returns a descriptor by its index.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Descriptor> {
        self.0.get(index as usize)
    }

    /// Returns the address and the number of the descriptors, for the host.
    pub(crate) fn array(&self) -> Array {
        Array {
            address: self.0.physical_address(),
            // `new` has counted them as a `u32`.
            count: self.0.len() as u32,
        }
    }
}
