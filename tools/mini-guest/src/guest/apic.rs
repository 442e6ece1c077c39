// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The local APIC in x2APIC mode, and KVM's paravirtual end of interrupt.

use core::{
    arch::x86_64,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use crate::{cpu, status::fail};

const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;

const MSR_X2APIC_ID: u32 = 0x802;
const MSR_X2APIC_SPURIOUS: u32 = 0x80f;
const SPURIOUS_ENABLE: u64 = 1 << 8;
const MSR_X2APIC_ICR: u32 = 0x830;
const ICR_ALL_BUT_SELF: u64 = 3 << 18;

const MSR_X2APIC_LVT_LINT0: u32 = 0x835;
const LVT_MASKED: u64 = 1 << 16;
const LVT_EXTINT: u64 = 7 << 8;

const MSR_KVM_PV_EOI: u32 = 0x4b56_4d04;
const PV_EOI_ENABLE: u64 = 1;

const MSR_X2APIC_LVT_TIMER: u32 = 0x832;
const TIMER_TSC_DEADLINE: u64 = 2 << 17;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// The register that takes the end of an interrupt.
pub const MSR_X2APIC_EOI: u32 = 0x80b;
/// The vector of interrupts that were gone when the CPU asked for them.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Switches this vCPU's local APIC on, in x2APIC mode, and has it take the interrupts of the 8259A or not: KVM gives them
/// to one vCPU only.
pub fn enable(with_pic: bool) {
    let lint0 = if with_pic { LVT_EXTINT } else { LVT_MASKED };

    // SAFETY: The VMM offers x2APIC mode; entering it, and enabling the APIC, raises no interrupt by itself, and the 8259A
    // none that the VMM does not ask for.
    unsafe {
        let base = cpu::read_msr(MSR_APIC_BASE);
        cpu::write_msr(MSR_APIC_BASE, base | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
        cpu::write_msr(
            MSR_X2APIC_SPURIOUS,
            SPURIOUS_ENABLE | u64::from(SPURIOUS_VECTOR),
        );
        cpu::write_msr(MSR_X2APIC_LVT_LINT0, lint0);
    }
}

/// Tells KVM where it may say that no EOI is required.
pub fn enable_pv_eoi(word: &'static AtomicU32) {
    word.store(0, SeqCst);
    // SAFETY: The VMM has seen the feature; KVM writes to this word only, which is an atomic.
    unsafe { cpu::write_msr(MSR_KVM_PV_EOI, cpu::address(word) | PV_EOI_ENABLE) };
}

/// Gives the timer its vector, and has it wait for a deadline.
pub fn enable_timer(vector: u8) {
    if !cpu::has_tsc_deadline() {
        fail(format_args!("the local APIC's timer has no deadlines"));
    }
    // SAFETY: The register exists in x2APIC mode, and the mode as well, as CPUID says. Deadlines are set afterwards.
    unsafe {
        cpu::write_msr(MSR_X2APIC_LVT_TIMER, TIMER_TSC_DEADLINE | u64::from(vector));
        x86_64::_mm_mfence();
    }
}

/// Has the timer interrupt this vCPU when its time stamp counter is there.
pub fn set_deadline(cycles: u64) {
    // SAFETY: The register exists, since the timer has been enabled.
    unsafe { cpu::write_msr(MSR_TSC_DEADLINE, cycles) };
}

/// Sends a fixed interrupt to one vCPU.
pub fn send(vector: u8, target: u32) {
    write_icr((u64::from(target) << 32) | u64::from(vector));
}

/// Sends a fixed interrupt to all other vCPUs.
pub fn send_to_others(vector: u8) {
    write_icr(ICR_ALL_BUT_SELF | u64::from(vector));
}

fn write_icr(value: u64) {
    // SAFETY: The fences and the register exist in x2APIC mode. The write does not wait for earlier stores by itself,
    // and the target reads what they wrote.
    unsafe {
        x86_64::_mm_mfence();
        x86_64::_mm_lfence();
        cpu::write_msr(MSR_X2APIC_ICR, value);
    }
}

/// This vCPU's APIC ID.
pub fn id() -> u32 {
    // SAFETY: The register exists in x2APIC mode, and has 32 bits.
    unsafe { cpu::read_msr(MSR_X2APIC_ID) as u32 }
}
