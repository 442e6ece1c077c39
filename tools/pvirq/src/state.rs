// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A vCPU's registers, to be shown when it stopped where it should not.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events};
use kvm_ioctls::VcpuFd;

/// A vCPU's registers.
#[derive(Clone, Debug, Default)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads them. What cannot be read is zero: this is for error messages, which must not fail.
    pub fn read(vcpu: &VcpuFd) -> Self {
        VcpuState {
            regs: vcpu.get_regs().unwrap_or_default(),
            sregs: vcpu.get_sregs().unwrap_or_default(),
            events: vcpu.get_vcpu_events().unwrap_or_default(),
        }
    }
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VcpuState {
            regs,
            sregs,
            events,
        } = self;
        let rows = [
            [
                ("rip", regs.rip),
                ("rsp", regs.rsp),
                ("rbp", regs.rbp),
                ("rflags", regs.rflags),
            ],
            [
                ("rax", regs.rax),
                ("rbx", regs.rbx),
                ("rcx", regs.rcx),
                ("rdx", regs.rdx),
            ],
            [
                ("rsi", regs.rsi),
                ("rdi", regs.rdi),
                ("r8", regs.r8),
                ("r9", regs.r9),
            ],
            [
                ("r10", regs.r10),
                ("r11", regs.r11),
                ("r12", regs.r12),
                ("r13", regs.r13),
            ],
            [
                ("r14", regs.r14),
                ("r15", regs.r15),
                ("cr0", sregs.cr0),
                ("cr2", sregs.cr2),
            ],
            [
                ("cr3", sregs.cr3),
                ("cr4", sregs.cr4),
                ("efer", sregs.efer),
                ("apic", sregs.apic_base),
            ],
            [
                ("gs", sregs.gs.base),
                ("gdt", sregs.gdt.base),
                ("idt", sregs.idt.base),
                ("tr", sregs.tr.base),
            ],
        ];
        for row in rows {
            for (name, value) in row {
                write!(f, "  {name:>6} {value:016x}")?;
            }
            writeln!(f)?;
        }
        let exception = &events.exception;
        if exception.injected != 0 || exception.pending != 0 {
            writeln!(
                f,
                "  exception {} with error code {:#x}",
                exception.nr, exception.error_code
            )?;
        }
        if events.interrupt.injected != 0 {
            writeln!(f, "  interrupt {}", events.interrupt.nr)?;
        }
        Ok(())
    }
}
