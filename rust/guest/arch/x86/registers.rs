// SPDX-License-Identifier: GPL-2.0

//! Registers as I/O ports.

use kernel::prelude::*;
use kernel_ext_cpu::{
    cpuidle::Idle,
    port_io::Ports, //
};
use pvirq_protocol::registers::LEN;

use crate::arch::RegisterIo;

/// The host's registers.
pub(crate) struct Registers(Ports);

impl RegisterIo for Registers {
    fn claim(base: u16) -> Result<Self> {
        if base % LEN != 0 {
            pr_err!("port={base:#x} is not a multiple of {LEN}\n");
            return Err(EINVAL);
        }
        // SAFETY: If these ports are not claimed, either nothing answers there, or pvirq does, which accesses no memory
        // but the descriptors that are registered.
        let ports = unsafe { Ports::claim(base, LEN, c"pvirq") }.inspect_err(|_| {
            pr_err!("no pvirq host: something else is at port {base:#x}, see /proc/ioports\n");
        })?;

        Ok(Self(ports))
    }

    #[inline]
    fn read(&self, offset: u16) -> u32 {
        self.0.read(offset)
    }

    #[inline]
    fn write(&self, offset: u16, value: u32) {
        self.0.write(offset, value);
    }

    #[inline]
    fn write_idle(&self, idle: &Idle, offset: u16, value: u32) {
        idle.write_port(self.0.at(offset), value);
    }
}
