// SPDX-License-Identifier: GPL-2.0

//! CPUs that come online and go offline.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::{
    cpu_timer::CpuTimers,
    cpuidle,
    hotplug::CpuHotplug, //
};

use crate::{
    arch::{
        Addresses,
        CpuAddress, //
    },
    checks::{
        Promised,
        Regular, //
    },
    guest::Guest, //
};

/// Makes CPUs receive posts, poll, and check the registration while they are online.
pub(crate) struct Presence {
    pub(crate) guest: Arc<Guest>,
    pub(crate) idler: Option<cpuidle::Registration<Guest>>,
    pub(crate) checks: CpuTimers<Regular>,
    pub(crate) promises: Arc<CpuTimers<Promised>>,
}

impl CpuHotplug for Presence {
    const NAME: &'static CStr = c"pvirq_guest:online";

    /// Never fails: a CPU without a descriptor is sent native interrupts, and one that cannot poll halts.
    fn online(&self, id: CpuId) -> Result {
        let guest = &*self.guest;

        guest.host().announce();
        // The VMM may have reset this vCPU, which ends the registration.
        guest.registration.check_now();
        if let Some(idler) = &self.idler {
            if let Err(err) = idler.add(id) {
                if guest.registration.may_log() {
                    pr_warn!(
                        "CPU {} does not poll for posts: error {}\n",
                        id.as_u32(),
                        err.to_errno()
                    );
                }
            }
        }
        self.checks.start();
        self.checks.arm();
        self.promises.start();
        guest.cpus.set_index(id, Addresses::index_of(id));
        Ok(())
    }

    fn offline(&self, id: CpuId) {
        self.guest.cpus.set_index(id, None);
        self.promises.stop();
        self.checks.stop();
        if let Some(idler) = &self.idler {
            idler.remove(id);
        }
    }
}
