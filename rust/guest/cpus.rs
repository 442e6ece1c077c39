// SPDX-License-Identifier: GPL-2.0

//! What this module knows of each CPU.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    prelude::*,
    sync::atomic::Atomic, //
};
use kernel_ext_cpu::once::Once;

use crate::{
    counters::Counters,
    idle, //
};

/// No CPU has this APIC ID.
const NONE: u32 = u32::MAX;

/// One CPU. No two share a cache line.
#[repr(align(64))]
pub(crate) struct Cpu {
    apic_id: Atomic<u32>,
    pub(crate) idle: idle::State,
    pub(crate) counters: Counters,
}

impl Cpu {
    /// Returns the APIC ID of the CPU if it can be posted to.
    #[inline]
    pub(crate) fn apic_id(&self) -> Option<u32> {
        Some(self.apic_id.read_once()).filter(|id| *id != NONE)
    }

    /// Says whether, and by which APIC ID, the CPU can be posted to from now on.
    pub(crate) fn set_apic_id(&self, id: Option<u32>) {
        self.apic_id.write_once(id.unwrap_or(NONE));
    }
}

/// All CPUs that there can be.
pub(crate) struct Cpus(KVec<Cpu>);

impl Cpus {
    pub(crate) fn new() -> Result<Self> {
        let mut cpus = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
        for _ in 0..nr_cpu_ids() {
            let cpu = Cpu {
                apic_id: Atomic::new(NONE),
                idle: idle::State::new(),
                counters: Counters::new(),
            };
            cpus.push(cpu, GFP_KERNEL)?;
        }
        Ok(Self(cpus))
    }

    #[inline]
    pub(crate) fn get(&self, cpu: CpuId) -> Option<&Cpu> {
        self.0.get(cpu.as_u32() as usize)
    }

    /// Returns each CPU that can be posted to, with its ID.
    pub(crate) fn known(&self) -> impl Iterator<Item = (CpuId, &Cpu)> {
        (0..)
            .zip(self.0.iter())
            .filter(|(_, cpu)| cpu.apic_id().is_some())
            .filter_map(|(id, cpu)| Some((CpuId::from_u32(id)?, cpu)))
    }

    /// Returns all of them, with their IDs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Cpu)> {
        self.0.iter().enumerate()
    }
}
