// SPDX-License-Identifier: GPL-2.0

//! The state that all CPUs of this guest share.

use kernel::prelude::*;
use kernel_ext_cpu::{
    kvm,
    memory, //
};
use pvirq_protocol::Descriptor;

use crate::{
    cpus::Cpus,
    descriptors::Descriptors,
    host::Host,
    registration::Registration, //
};

/// The state that all CPUs share.
pub(crate) struct Guest {
    pub(crate) registration: Registration,
    pub(crate) cpus: Cpus,
    /// Whether this kernel yields to preempted vCPUs for which a multicast waits.
    pub(crate) yields: bool,
}

impl Guest {
    /// Makes descriptors, and registers them with `host`.
    pub(crate) fn new(host: Host) -> Result<Self> {
        if memory::is_encrypted() {
            pr_err!("this guest's memory is encrypted, so the host cannot read descriptors\n");
            return Err(ENODEV);
        }
        let descriptors = Descriptors::new(host.max_descriptors())?;

        Ok(Self {
            cpus: Cpus::new()?,
            yields: kvm::has_sched_yield(),
            registration: Registration::begin(host, descriptors)?,
        })
    }

    /// Returns the host.
    #[inline]
    pub(crate) fn host(&self) -> &Host {
        self.registration.host()
    }

    /// Returns a descriptor by its index.
    #[inline]
    pub(crate) fn descriptor(&self, index: u32) -> Option<&Descriptor> {
        self.registration.descriptor(index)
    }
}
