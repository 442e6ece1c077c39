// SPDX-License-Identifier: GPL-2.0

//! The timers that check the registration, see [`registration`](crate::registration).

use kernel::{
    cpu::CpuId,
    sync::Arc,
    time::Jiffies, //
};
use kernel_ext_cpu::cpu_timer::CpuTimer;

use crate::{
    guest::Guest,
    registration::interval, //
};

/// Checks the registration while the CPU is not idle.
pub(crate) struct Regular(pub(crate) Arc<Guest>);

impl CpuTimer for Regular {
    const DEFERRABLE: bool = true;

    fn expired(&self, id: CpuId) -> Option<Jiffies> {
        let guest = &*self.0;

        // If another CPU has checked since, this one may be the only one awake when the next check is due.
        let next = guest
            .registration
            .check_if_due()
            .err()
            .unwrap_or_else(interval);
        if let Some(cpu) = guest.cpus.get(id) {
            guest.registration.announce_if_new(cpu.announced());
        }
        Some(next)
    }
}

/// Checks the registration after the CPU has left an interrupt to the host.
pub(crate) struct Promised(pub(crate) Arc<Guest>);

impl CpuTimer for Promised {
    const DEFERRABLE: bool = false;

    fn expired(&self, _id: CpuId) -> Option<Jiffies> {
        self.0.registration.check_if_due().err()
    }
}
