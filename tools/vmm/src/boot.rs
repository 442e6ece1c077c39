// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state in which a machine starts: its memory below 1 MiB, and each vCPU's registers.
//!
//! vCPUs start in 64-bit mode at the image's entry point, as the boot protocol of the crate `mini-guest` says. The VMM
//! starts all of them itself, as Firecracker does, rather than leave that to INIT and SIPI: the guest then needs no
//! 16-bit code, and all vCPUs start the same way and at the same time.

use std::mem::offset_of;

use kvm_bindings::{kvm_mp_state, kvm_regs, kvm_segment, CpuId, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::VcpuFd;
use mini_guest::{Mode, Shared};
use pvirq_protocol::registers::Array;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use crate::error::Error;

/// Where images may begin.
pub const IMAGE_START: GuestAddress = GuestAddress(0x10_0000);
/// Where what the VMM shares with the mini guest is.
const SHARED_START: GuestAddress = GuestAddress(0x1_0000);

const PML4: GuestAddress = GuestAddress(0x1000);
const PDPT: GuestAddress = GuestAddress(0x2000);
const DIRECTORIES: GuestAddress = GuestAddress(0x3000);
const TABLE_SIZE: u64 = 0x1000;

/// The least memory that a machine can have.
pub const MEMORY_MIN: usize = 2 << 20;
/// The most memory that a machine can have: what lies below the hole for devices, and four page directories map.
pub const MEMORY_MAX: usize = 3 << 30;

const PAGE_PRESENT: u64 = 1 << 0;
const PAGE_WRITABLE: u64 = 1 << 1;
const PAGE_LARGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit that is always set.
const RFLAGS: u64 = 1 << 1;

const CPUID_FEATURES: u32 = 0x1;
const CPUID_TOPOLOGY: u32 = 0xb;
const CPUID_TOPOLOGY_V2: u32 = 0x1f;

/// Where the mini guest's descriptors for so many vCPUs are.
pub fn descriptors(vcpus: usize) -> Array {
    Array {
        address: SHARED_START.raw_value() + offset_of!(Shared, descriptors) as u64,
        count: vcpus as u32,
    }
}

/// What the VMM shares with the mini guest.
pub fn shared(memory: &GuestMemoryMmap) -> Result<&Shared, Error> {
    let slice = memory
        .get_slice(SHARED_START, size_of::<Shared>())
        .map_err(|error| Error::Memory(format!("no room for what is shared: {error}")))?;
    let pointer = slice.ptr_guard_mut().as_ptr().cast::<Shared>();
    assert!(
        pointer.is_aligned(),
        "guest memory begins at a page boundary"
    );
    // SAFETY: The slice is memory of this size, which lives as long as `memory`, and begins at a page boundary. All of
    // `Shared` is atomics, which are valid whatever they hold and may change at any time.
    Ok(unsafe { &*pointer })
}

/// Fills the memory below 1 MiB.
pub fn set_up_memory(
    memory: &GuestMemoryMmap,
    vcpus: usize,
    mode: Mode,
    pv_eoi: bool,
) -> Result<(), Error> {
    let write = |table: GuestAddress, index: u64, entry: u64| {
        memory
            .write_obj(entry, table.unchecked_add(index * size_of::<u64>() as u64))
            .map_err(|error| Error::Memory(format!("no room for page tables: {error}")))
    };
    let table = PAGE_PRESENT | PAGE_WRITABLE;

    write(PML4, 0, PDPT.raw_value() | table)?;
    let pages = memory.last_addr().raw_value() / LARGE_PAGE_SIZE + 1;
    for page in 0..pages {
        write(
            DIRECTORIES,
            page,
            (page * LARGE_PAGE_SIZE) | table | PAGE_LARGE,
        )?;
    }
    for directory in 0..pages.div_ceil(TABLE_SIZE / 8) {
        write(
            PDPT,
            directory,
            DIRECTORIES
                .unchecked_add(directory * TABLE_SIZE)
                .raw_value()
                | table,
        )?;
    }

    let shared = shared(memory)?;
    shared
        .vcpus
        .store(vcpus as u32, std::sync::atomic::Ordering::SeqCst);
    shared
        .pv_eoi
        .store(pv_eoi.into(), std::sync::atomic::Ordering::SeqCst);
    shared.set_mode(mode);
    Ok(())
}

/// Gives a vCPU its number in CPUID.
fn number_cpuid(cpuid: &mut CpuId, index: usize, vcpus: usize) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            CPUID_FEATURES => {
                entry.ebx = (entry.ebx & 0xffff) | ((vcpus as u32) << 16) | ((index as u32) << 24);
            }
            CPUID_TOPOLOGY | CPUID_TOPOLOGY_V2 => entry.edx = index as u32,
            _ => {}
        }
    }
}

/// Says what a vCPU's CPU is, which of them it is among others.
pub fn set_cpuid(vcpu: &VcpuFd, mut cpuid: CpuId, index: usize, vcpus: usize) -> Result<(), Error> {
    number_cpuid(&mut cpuid, index, vcpus);
    vcpu.set_cpuid2(&cpuid)
        .map_err(Error::kvm("KVM_SET_CPUID2"))
}

/// Sets a vCPU's registers.
pub fn set_up_vcpu(
    vcpu: &VcpuFd,
    cpuid: CpuId,
    index: usize,
    vcpus: usize,
    entry: GuestAddress,
) -> Result<(), Error> {
    set_cpuid(vcpu, cpuid, index, vcpus)?;

    let code = kvm_segment {
        limit: u32::MAX,
        selector: 0x8,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 0x10,
        type_: 0x3,
        l: 0,
        db: 1,
        ..code
    };
    let task = kvm_segment {
        limit: 0x67,
        selector: 0x18,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };

    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr3 = PML4.raw_value();
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)
        .map_err(Error::kvm("KVM_SET_SREGS"))?;

    let regs = kvm_regs {
        rip: entry.raw_value(),
        rdi: SHARED_START.raw_value(),
        rsi: index as u64,
        rflags: RFLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(Error::kvm("KVM_SET_REGS"))?;
    vcpu.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })
    .map_err(Error::kvm("KVM_SET_MP_STATE"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    fn memory(size: usize) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap()
    }

    /// Walks the page tables as a CPU does.
    fn translate(memory: &GuestMemoryMmap, address: u64) -> Option<u64> {
        let mut table = PML4.raw_value();
        for shift in [39, 30, 21] {
            let entry: u64 = memory
                .read_obj(GuestAddress(table + ((address >> shift) & 0x1ff) * 8))
                .unwrap();
            if entry & PAGE_PRESENT == 0 {
                return None;
            }
            table = entry & !0xfff;
        }
        Some(table + (address & (LARGE_PAGE_SIZE - 1)))
    }

    #[test]
    fn memory_is_mapped_one_to_one_and_nothing_else() {
        for size in [MEMORY_MIN, 16 << 20, MEMORY_MAX] {
            let memory = memory(size);
            set_up_memory(&memory, 3, Mode::Jobs, true).unwrap();
            for address in [0, 0x12_3456, size as u64 / 2 + 5, size as u64 - 1] {
                assert_eq!(translate(&memory, address), Some(address));
            }
            assert_eq!(translate(&memory, size as u64), None);
        }
    }

    #[test]
    fn what_is_shared_lies_below_the_image_and_above_the_page_tables() {
        let end = SHARED_START.raw_value() + size_of::<Shared>() as u64;
        assert!(end <= 0xa_0000);
        let tables = (MEMORY_MAX as u64 / LARGE_PAGE_SIZE).div_ceil(512);
        assert!(DIRECTORIES.raw_value() + tables * TABLE_SIZE <= SHARED_START.raw_value());

        let memory = memory(MEMORY_MIN);
        set_up_memory(&memory, 64, Mode::Jobs, true).unwrap();
        let shared = shared(&memory).unwrap();
        assert_eq!(shared.vcpus.load(SeqCst), 64);
        assert!(shared.serves_jobs());
    }

    #[test]
    fn each_vcpu_is_told_its_number() {
        let entries = [CPUID_FEATURES, 0x7, CPUID_TOPOLOGY].map(|function| kvm_cpuid_entry2 {
            function,
            ebx: 0x1234,
            ..Default::default()
        });
        let mut cpuid = CpuId::from_entries(&entries).unwrap();
        number_cpuid(&mut cpuid, 5, 16);
        let [features, other, topology] = cpuid.as_slice() else {
            panic!()
        };
        assert_eq!(features.ebx, 0x0510_1234);
        assert_eq!(other, &entries[1]);
        assert_eq!(topology.edx, 5);
    }
}
