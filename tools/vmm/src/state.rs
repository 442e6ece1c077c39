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

    /// Whether they are the host's: its kernel's interrupt table is in the upper half of the addresses, where the guest
    /// has nothing. A guest gone wild does not get there, as only an instruction that it has once can change this
    /// register.
    pub fn is_hosts(&self) -> bool {
        (self.sregs.idt.base as i64) < 0
    }
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VcpuState {
            regs,
            sregs,
            events,
        } = self;
        let names = "rip rsp rbp rflags rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 cr0 cr2 cr3 cr4 efer apic \
                     gs gdt idt tr";
        let values = [
            [regs.rip, regs.rsp, regs.rbp, regs.rflags],
            [regs.rax, regs.rbx, regs.rcx, regs.rdx],
            [regs.rsi, regs.rdi, regs.r8, regs.r9],
            [regs.r10, regs.r11, regs.r12, regs.r13],
            [regs.r14, regs.r15, sregs.cr0, sregs.cr2],
            [sregs.cr3, sregs.cr4, sregs.efer, sregs.apic_base],
            [sregs.gs.base, sregs.gdt.base, sregs.idt.base, sregs.tr.base],
        ];
        let mut names = names.split_whitespace();
        for row in values {
            for (value, name) in row.into_iter().zip(&mut names) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_its_interrupt_table_in_the_upper_half() {
        let mut state = VcpuState::default();
        for (base, hosts) in [
            (0, false),
            (0x0010_a000, false),
            // Where KVM finds the base of a guest in real mode.
            (0xffff_0000, false),
            // Where x86-64's kernel maps it.
            (0xffff_fe00_0000_0000, true),
        ] {
            state.sregs.idt.base = base;
            assert_eq!(state.is_hosts(), hosts, "{base:#x}");
        }
    }
}
