// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Instructions that Rust has no name for.

use core::{
    arch::{asm, x86_64},
    sync::atomic::AtomicU32,
};

/// The vector of NMIs.
pub const NMI: u8 = 2;

/// Stands for the vector of an interrupt that was taken while interrupts were off: no vector.
pub const MASKED: u64 = 256;

use mini_guest::{port, Slot};

/// The first address of the upper half, which is not mapped.
const NOTHING: u64 = 0xffff_8000_0000_0000;
const MSR_GS_BASE: u32 = 0xc000_0101;

/// Writes a byte to a port.
///
/// # Safety
///
/// What is behind the port must not change memory that Rust relies on.
pub unsafe fn out(port: u16, value: u8) {
    // SAFETY: By the function's contract. The VMM may access shared memory meanwhile, hence no `nomem`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes 32 bits to a port.
///
/// # Safety
///
/// As for [`out`].
pub unsafe fn out_u32(port: u16, value: u32) {
    // SAFETY: As in `out`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags))
    };
}

/// Reads 32 bits from a port.
///
/// # Safety
///
/// As for [`out`].
pub unsafe fn in_u32(port: u16) -> u32 {
    let value;
    // SAFETY: As in `out`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags))
    };
    value
}

/// Writes a string to a port. The whole string costs one VM exit, or few.
///
/// # Safety
///
/// As for [`out`].
pub unsafe fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: By the function's contract; the string is valid for reads, and the direction flag is clear.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// Ends the machine.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: The VMM does not come back from this write.
        unsafe { out(port::EXIT, status) };
    }
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The register must exist.
pub unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The register exists by the function's contract, and reading it has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    (u64::from(high) << 32) | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The register must exist, and the value must be one that leaves Rust's view of the machine intact.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: By the function's contract.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") msr,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        )
    };
}

/// Lets `gs` point to this vCPU's slot, where the interrupt handler finds it.
pub fn set_gs_base(slot: &'static Slot) {
    // SAFETY: Compiled code does not use `gs`.
    unsafe { write_msr(MSR_GS_BASE, core::ptr::from_ref(slot) as u64) };
}

/// Reads the time stamp counter, not before what precedes it.
pub fn cycles() -> u64 {
    // SAFETY: The counter and the fence exist on every 64-bit CPU.
    unsafe {
        x86_64::_mm_lfence();
        x86_64::_rdtsc()
    }
}

/// Whether the CPU is Intel's or compatible with it, where the hypercall instruction is VMCALL, not VMMCALL.
pub fn is_intel() -> bool {
    // SAFETY: Every 64-bit CPU has CPUID.
    let leaf = unsafe { x86_64::__cpuid(0) };
    // "GenuineIntel" has "ntel" in the last register.
    leaf.ecx == u32::from_le_bytes(*b"ntel")
}

/// Whether the local APIC's timer can wait for a value of the time stamp counter.
pub fn has_tsc_deadline() -> bool {
    // SAFETY: Every 64-bit CPU has CPUID, and this leaf.
    let leaf = unsafe { x86_64::__cpuid(1) };
    leaf.ecx & (1 << 24) != 0
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: The IDT is loaded, and the handler of IPIs leaves no trace but in its slot.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: This cannot break anything but latency.
    unsafe { asm!("cli", options(nostack)) };
}

/// Lets interrupts in and halts; no interrupt gets between the two. Returns after an interrupt, with interrupts on.
pub fn halt() {
    // SAFETY: As for `enable_interrupts`.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Lets interrupts in and writes 32 bits to a port; no interrupt gets between the two. Returns with interrupts on.
///
/// # Safety
///
/// As for [`out`].
pub unsafe fn enable_interrupts_and_out_u32(port: u16, value: u32) {
    // SAFETY: As for `enable_interrupts`, and by the function's contract.
    unsafe { asm!("sti", "out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Halts for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: Nothing can go wrong on this vCPU any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The address of a word that KVM is told about.
pub fn address(word: &'static AtomicU32) -> u64 {
    // Memory is mapped one to one, so the address is the physical one.
    word.as_ptr() as u64
}

/// Writes to an address where there never is memory.
pub fn touch_nothing() {
    // SAFETY: The page fault ends the machine.
    unsafe { asm!("mov byte ptr [{}], 0", in(reg) NOTHING, options(nostack, preserves_flags)) };
}
