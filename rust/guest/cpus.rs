// SPDX-License-Identifier: GPL-2.0

//! The per-CPU state of the module.

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

/// No CPU's descriptor has this index.
const NONE: u32 = u32::MAX;

/// A value on cache lines of its own.
#[repr(align(64))]
struct CacheAligned<T>(T);

/// The number of indices on a cache line.
const INDICES_PER_LINE: usize = 16;

/// The state that one CPU writes in the course of its work.
pub(crate) struct Cpu {
    idle: CacheAligned<IdleState>,
    counters: CacheAligned<Counters>,
}

impl Cpu {
    /// Returns the CPU's progress in an idle period.
    #[inline]
    pub(crate) fn idle(&self) -> &IdleState {
        &self.idle.0
    }

    /// Returns the CPU's counters.
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters.0
    }

    /// Returns the number of the last registration for which the CPU has announced itself.
    #[inline]
    pub(crate) fn announced(&self) -> &Atomic<u32> {
        self.idle().announced()
    }
}

/// All possible CPUs.
///
/// Senders read the indices of their targets' descriptors, which are on cache lines that are written only by CPU hotplug.
pub(crate) struct Cpus {
    indices: KVec<CacheAligned<[Atomic<u32>; INDICES_PER_LINE]>>,
    all: KVec<Cpu>,
}

impl Cpus {
    pub(crate) fn new() -> Result<Self> {
        let count = nr_cpu_ids() as usize;
        let lines = count.div_ceil(INDICES_PER_LINE);
        let mut indices = KVec::with_capacity(lines, GFP_KERNEL)?;
        for _ in 0..lines {
            let line = core::array::from_fn(|_| Atomic::new(NONE));
            indices.push(CacheAligned(line), GFP_KERNEL)?;
        }
        let mut all = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let cpu = Cpu {
                idle: CacheAligned(IdleState::new()),
                counters: CacheAligned(Counters::new()),
            };
            all.push(cpu, GFP_KERNEL)?;
        }
        Ok(Self { indices, all })
    }

    #[inline]
    pub(crate) fn get(&self, cpu: CpuId) -> Option<&Cpu> {
        self.all.get(cpu.as_u32() as usize)
    }

    #[inline]
    fn id(&self, cpu: CpuId) -> Option<&Atomic<u32>> {
        let number = cpu.as_u32() as usize;

        self.indices
            .get(number / INDICES_PER_LINE)?
            .0
            .get(number % INDICES_PER_LINE)
    }

    /// Returns the index of a CPU's descriptor if it can be posted to.
    #[inline]
    pub(crate) fn index(&self, cpu: CpuId) -> Option<u32> {
        Some(self.id(cpu)?.read_once()).filter(|id| *id != NONE)
    }

    /// Sets the index of a CPU's descriptor, by which it can be posted to, or that it cannot be.
    pub(crate) fn set_index(&self, cpu: CpuId, id: Option<u32>) {
        if let Some(slot) = self.id(cpu) {
            slot.write_once(id.unwrap_or(NONE));
        }
    }

    /// Returns the CPUs that can be posted to, as (number, index of its descriptor).
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u32, u32)> + use<'_> {
        (0..self.all.len() as u32)
            .filter_map(CpuId::from_u32)
            .filter_map(|cpu| Some((cpu.as_u32(), self.index(cpu)?)))
    }

    /// Returns all CPUs, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Cpu)> {
        self.all.iter().enumerate()
    }
}
