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
use kernel_ext_cpu::read_once::ReadOnce;

use crate::{
    counters::Counters,
    idle_state::IdleState, //
};

/// No CPU has this APIC ID.
const NONE: u32 = u32::MAX;

/// What is on cache lines of its own.
#[repr(align(64))]
struct Lines<T>(T);

/// How many APIC IDs are on a cache line.
const IDS_PER_LINE: usize = 16;

/// What one CPU writes, in the course of its work.
pub(crate) struct Cpu {
    idle: Lines<IdleState>,
    counters: Lines<Counters>,
}

impl Cpu {
    /// What the CPU does when it is idle.
    #[inline]
    pub(crate) fn idle(&self) -> &IdleState {
        &self.idle.0
    }

    /// What the CPU has counted.
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters.0
    }

    /// Returns the last registration that the CPU has made itself known to, see [`crate::registration`].
    #[inline]
    pub(crate) fn greeted(&self) -> &Atomic<u32> {
        self.idle().greeted()
    }
}

/// All CPUs that there can be.
///
/// What senders read of their targets is on lines that are written only when CPUs come and go, and what a CPU
/// writes when it is idle on another than its counters.
pub(crate) struct Cpus {
    apic_ids: KVec<Lines<[Atomic<u32>; IDS_PER_LINE]>>,
    all: KVec<Cpu>,
}

impl Cpus {
    pub(crate) fn new() -> Result<Self> {
        let count = nr_cpu_ids() as usize;
        let lines = count.div_ceil(IDS_PER_LINE);
        let mut apic_ids = KVec::with_capacity(lines, GFP_KERNEL)?;
        for _ in 0..lines {
            let line = core::array::from_fn(|_| Atomic::new(NONE));
            apic_ids.push(Lines(line), GFP_KERNEL)?;
        }
        let mut all = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let cpu = Cpu {
                idle: Lines(IdleState::new()),
                counters: Lines(Counters::new()),
            };
            all.push(cpu, GFP_KERNEL)?;
        }
        Ok(Self { apic_ids, all })
    }

    #[inline]
    pub(crate) fn get(&self, cpu: CpuId) -> Option<&Cpu> {
        self.all.get(cpu.as_u32() as usize)
    }

    #[inline]
    fn id(&self, cpu: CpuId) -> Option<&Atomic<u32>> {
        let number = cpu.as_u32() as usize;

        self.apic_ids
            .get(number / IDS_PER_LINE)?
            .0
            .get(number % IDS_PER_LINE)
    }

    /// Returns the APIC ID of a CPU if it can be posted to.
    #[inline]
    pub(crate) fn apic_id(&self, cpu: CpuId) -> Option<u32> {
        Some(self.id(cpu)?.read_once()).filter(|id| *id != NONE)
    }

    /// Says whether, and by which APIC ID, a CPU can be posted to from now on.
    pub(crate) fn set_apic_id(&self, cpu: CpuId, id: Option<u32>) {
        if let Some(slot) = self.id(cpu) {
            slot.write_once(id.unwrap_or(NONE));
        }
    }

    /// Returns the CPUs that can be posted to, as (number, APIC ID).
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u32, u32)> + use<'_> {
        (0..self.all.len() as u32)
            .filter_map(CpuId::from_u32)
            .filter_map(|cpu| Some((cpu.as_u32(), self.apic_id(cpu)?)))
    }

    /// Returns all of them, with their IDs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Cpu)> {
        self.all.iter().enumerate()
    }
}
