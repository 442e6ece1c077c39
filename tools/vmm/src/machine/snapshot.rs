// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Saving a machine, and making another one of what was saved.

use std::time::{Duration, Instant};

use pvirq::device::Device;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{blank_memory, Config, Machine, KICK_LIMIT};
use crate::{
    error::Error,
    ports::Transcript,
    snapshot::VcpuSnapshot,
    vcpu::{Event, Order, Stop},
};

/// What is copied at a time. Of what nothing has been written to there is no copy.
const PAGE: usize = 4096;

/// A machine's state: that of its vCPUs and of its memory.
pub struct Snapshot {
    vcpus: Vec<VcpuSnapshot>,
    memory: GuestMemoryMmap,
}

impl Snapshot {
    /// Makes one of the vCPUs' states, which have been saved before, and a copy of the memory.
    pub fn new(vcpus: Vec<VcpuSnapshot>, machine: &Machine) -> Result<Self, Error> {
        Ok(Snapshot {
            vcpus,
            memory: copy(&machine.memory, machine.memory_size() as usize)?,
        })
    }

    /// The vCPUs' states.
    pub fn vcpus(&self) -> &[VcpuSnapshot] {
        &self.vcpus
    }
}

/// Copies memory.
fn copy(memory: &GuestMemoryMmap, size: usize) -> Result<GuestMemoryMmap, Error> {
    let failed = |error: vm_memory::GuestMemoryError| Error::Memory(error.to_string());
    let new = blank_memory(size)?;
    let mut page = [0; PAGE];

    for start in (0..size).step_by(PAGE) {
        let (address, page) = (
            GuestAddress(start as u64),
            &mut page[..PAGE.min(size - start)],
        );
        memory.read_slice(page, address).map_err(failed)?;
        if page.iter().any(|&byte| byte != 0) {
            new.write_slice(page, address).map_err(failed)?;
        }
    }
    Ok(new)
}

impl Machine {
    /// Lets all vCPUs run, until they are [paused](Self::pause).
    pub fn start(&self) {
        self.resume();
    }

    /// Gets all vCPUs out of `KVM_RUN`, with their I/O completed.
    pub fn pause(&self) -> Result<(), Error> {
        self.kick_all();
        let deadline = Instant::now() + KICK_LIMIT;
        let mut failure = None;
        for paused in 0..self.vcpus() {
            match self.next_stop(deadline)? {
                Some((_, Stop::Kicked(_), _)) => {}
                Some((vcpu, stop, _)) => _ = failure.get_or_insert((vcpu, stop)),
                None => return Err(self.hung(KICK_LIMIT, self.vcpus() - paused)),
            }
        }
        failure.map_or(Ok(()), |(vcpu, stop)| Err(self.failure(vcpu, stop)))
    }

    /// Waits for a vCPU to park, for so long, after a [start](Self::start), and says whether one has.
    pub fn next_parked(&self, deadline: Instant, wait: Duration) -> Result<bool, Error> {
        match self.next_stop(Instant::now() + wait)? {
            Some((_, Stop::Parked, _)) => Ok(true),
            Some((vcpu, stop, _)) => Err(self.failure(vcpu, stop)),
            None if Instant::now() > deadline => Err(self.hung(wait, self.vcpus())),
            None => Ok(false),
        }
    }

    /// Reads the states of all vCPUs, which are [paused](Self::pause).
    pub fn save_vcpus(&self) -> Result<Vec<VcpuSnapshot>, Error> {
        for vcpu in &self.vcpus {
            let _ = vcpu.orders.as_ref().map(|orders| orders.send(Order::Save));
        }
        let mut saved: Vec<_> = (0..self.vcpus()).map(|_| None).collect();
        for _ in 0..self.vcpus() {
            let report = self.reports.recv().map_err(|_| self.threads_gone())?;
            if let Event::Saved(state) = report.event? {
                saved[report.vcpu] = Some(*state);
            }
        }
        let saved: Option<Vec<_>> = saved.into_iter().collect();
        saved.ok_or_else(|| self.threads_gone())
    }

    /// Makes a machine that goes on from a snapshot, with its vCPUs paused.
    pub fn restore(
        device: &Device,
        config: &Config<'_>,
        snapshot: Snapshot,
    ) -> Result<Self, Error> {
        let Snapshot { vcpus, memory } = snapshot;
        let cpuid = device.supported_cpuid()?;
        let transcript = Transcript::default();
        let console = Box::new(transcript.clone());
        let mut machine = Machine::build(device, config, memory, console, |vcpu, index| {
            crate::boot::set_cpuid(vcpu, cpuid.clone(), index, vcpus.len())?;
            vcpus[index].restore(vcpu)
        })?;
        machine.transcript = transcript;
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemory;

    use super::*;

    #[test]
    fn memory_is_copied_as_it_is() -> Result<(), Error> {
        let size = 3 * PAGE;
        let memory = blank_memory(size)?;
        let last = GuestAddress(size as u64 - 1);
        memory.write_obj(7_u8, GuestAddress(5)).unwrap();
        memory.write_obj(9_u8, last).unwrap();
        let copied = copy(&memory, size)?;
        memory.write_obj(8_u8, GuestAddress(5)).unwrap();
        assert_eq!(copied.read_obj::<u8>(GuestAddress(5)).unwrap(), 7);
        assert_eq!(copied.read_obj::<u8>(last).unwrap(), 9);
        assert_eq!(copied.last_addr(), last);
        Ok(())
    }
}
