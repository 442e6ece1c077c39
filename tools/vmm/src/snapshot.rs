// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A vCPU's state, as KVM's API alone gives it, to go on from in another VM.
//!
//! The vCPU has left `KVM_RUN` by `EINTR`: after an exit for I/O KVM has something to complete first, see
//! Documentation/virt/kvm/api.rst of the kernel. All vCPUs are out, and no eventfd can interrupt them any more, when the
//! first one is saved.

use kvm_bindings::{
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xsave, Msrs,
};
use kvm_ioctls::VcpuFd;

use crate::error::Error;

/// The registers that have no calls of their own: what 64-bit guests can change, and KVM's paravirtual end
/// of interrupt. Those that a host does not have are left out.
const MSRS: [u32; 11] = [
    0x10,        // IA32_TSC
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0x277,       // IA32_PAT
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SYSCALL_MASK
    0xc000_0102, // KERNEL_GS_BASE
    0x4b56_4d04, // MSR_KVM_PV_EOI_EN
];
/// The deadline of the local APIC's timer, which is set when the local APIC is there.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// A vCPU's state.
#[derive(Debug)]
pub struct VcpuSnapshot {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    msrs: Vec<kvm_msr_entry>,
    deadline: Option<kvm_msr_entry>,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    debug: kvm_debugregs,
}

impl VcpuSnapshot {
    /// Reads a vCPU's state.
    pub fn save(vcpu: &VcpuFd) -> Result<Self, Error> {
        let msrs = MSRS
            .into_iter()
            .filter_map(|msr| read_msr(vcpu, msr).transpose());
        Ok(VcpuSnapshot {
            events: vcpu
                .get_vcpu_events()
                .map_err(Error::kvm("KVM_GET_VCPU_EVENTS"))?,
            mp_state: vcpu
                .get_mp_state()
                .map_err(Error::kvm("KVM_GET_MP_STATE"))?,
            regs: vcpu.get_regs().map_err(Error::kvm("KVM_GET_REGS"))?,
            xsave: vcpu
                .get_xsave()
                .map_err(Error::kvm("KVM_GET_XSAVE"))?
                .into(),
            sregs: vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?,
            msrs: msrs.collect::<Result<_, _>>()?,
            deadline: read_msr(vcpu, MSR_TSC_DEADLINE)?,
            lapic: vcpu.get_lapic().map_err(Error::kvm("KVM_GET_LAPIC"))?,
            debug: vcpu
                .get_debug_regs()
                .map_err(Error::kvm("KVM_GET_DEBUGREGS"))?,
        })
    }

    /// Puts a vCPU into this state that has just been made, and has the same CPUID.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        // The local APIC's mode goes before its registers.
        vcpu.set_sregs(&self.sregs)
            .map_err(Error::kvm("KVM_SET_SREGS"))?;
        vcpu.set_regs(&self.regs)
            .map_err(Error::kvm("KVM_SET_REGS"))?;
        // SAFETY: It is KVM_GET_XSAVE's, and no feature has been enabled that makes it larger.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(Error::kvm("KVM_SET_XSAVE"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_lapic(&self.lapic)
            .map_err(Error::kvm("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, self.deadline.as_slice())?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(Error::kvm("KVM_SET_DEBUGREGS"))?;
        vcpu.set_mp_state(self.mp_state)
            .map_err(Error::kvm("KVM_SET_MP_STATE"))?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(Error::kvm("KVM_SET_VCPU_EVENTS"))
    }

    /// Whether the vCPU is halted.
    pub fn is_halted(&self) -> bool {
        self.mp_state.mp_state == kvm_bindings::KVM_MP_STATE_HALTED
    }

    /// The interrupts that the local APIC is going to deliver.
    pub fn pending(&self) -> impl Iterator<Item = u8> + '_ {
        /// The first of eight registers, a word in each 16 bytes.
        const REQUESTS: usize = 0x200;

        (0..=u8::MAX).filter(|&vector| {
            let byte = REQUESTS + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
            self.lapic.regs[byte] as u8 & (1 << (vector % 8)) != 0
        })
    }
}

/// Reads a register, if the vCPU has it.
fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<Option<kvm_msr_entry>, Error> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry])
        .map_err(|error| Error::Memory(format!("no room for a register: {error:?}")))?;
    let read = vcpu
        .get_msrs(&mut msrs)
        .map_err(Error::kvm("KVM_GET_MSRS"))?;
    Ok((read == 1).then(|| msrs.as_slice()[0]))
}

fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), Error> {
    let msrs = Msrs::from_entries(entries)
        .map_err(|error| Error::Memory(format!("no room for registers: {error:?}")))?;
    let written = vcpu.set_msrs(&msrs).map_err(Error::kvm("KVM_SET_MSRS"))?;
    match entries.get(written) {
        None => Ok(()),
        Some(entry) => Err(Error::Memory(format!(
            "the register {:#x} cannot be restored",
            entry.index
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_interrupts_are_found_in_the_local_apics_registers() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[0x200 + 2 * 16] = 1; // 64
        lapic.regs[0x200 + 6 * 16 + 2] = 2; // 209
        let snapshot = VcpuSnapshot {
            regs: Default::default(),
            sregs: Default::default(),
            xsave: Box::default(),
            msrs: Vec::new(),
            deadline: None,
            lapic,
            events: Default::default(),
            mp_state: Default::default(),
            debug: Default::default(),
        };
        assert_eq!(snapshot.pending().collect::<Vec<_>>(), [64, 209]);
        assert!(!snapshot.is_halted());
    }
}
