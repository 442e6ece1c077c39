// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Why a virtual machine, or what runs in it, failed.

use std::{io, path::PathBuf, time::Duration};

use mini_guest::{Answer, STATUS_MASKED};

use crate::state::VcpuState;

/// Why a virtual machine, or what runs in it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be used, or a call of pvirq's failed.
    #[error(transparent)]
    Pvirq(#[from] pvirq::error::Error),
    /// More vCPUs than there can be.
    #[error("{vcpus} vCPUs: {} takes 1 to {max}", device.display())]
    VcpuCount {
        /// The device.
        device: PathBuf,
        /// How many were asked for.
        vcpus: usize,
        /// How many there can be.
        max: usize,
    },
    /// A call of the KVM API failed.
    #[error("{0} failed")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// A system call failed.
    #[error("{0}")]
    Os(String, #[source] io::Error),
    /// The guest's memory cannot be set up.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The guest's image cannot be loaded.
    #[error("image: {0}")]
    Image(String),
    /// The guest stopped in a way that it should not.
    #[error("vCPU {vcpu}: {what}\n{state}{}", quote(console))]
    Guest {
        /// The vCPU that stopped.
        vcpu: usize,
        /// Why.
        what: String,
        /// Its state at that time.
        state: Box<VcpuState>,
        /// What the guest had written to its console, if that was kept.
        console: String,
    },
    /// The guest ended the machine, where it was expected to go on.
    #[error("the guest ended with status {status}{}", quote(console))]
    Ended {
        /// The status that it gave.
        status: u8,
        /// What the guest had written to its console, if that was kept.
        console: String,
    },
    /// The guest did not finish in time.
    #[error("no end within {} s; what the vCPUs that still ran were doing:\n{states}{}", limit.as_secs(), quote(console))]
    Hung {
        /// The time limit.
        limit: Duration,
        /// The vCPUs' states.
        states: String,
        /// What the guest had written to its console, if that was kept.
        console: String,
    },
    /// The guest could register its descriptors once, and then it could not.
    #[error("the guest's descriptors were not registered: {0:?}")]
    NotRegistered(Answer),
    /// Interrupts were lost, and while the guest waited there were more exits than can be counted.
    #[error("{lost} interrupts were lost{}", quote(console))]
    Lost {
        /// How many.
        lost: u64,
        /// What the guest had written to its console, if that was kept.
        console: String,
    },
    /// Everything has been acknowledged, and still something is pending.
    #[error("something is pending in the descriptor of vCPU {0} after a storm")]
    Pending(usize),
    /// Exits cannot be counted.
    #[error("cannot count exits: {0}")]
    Count(String),
}

impl Error {
    /// A failed system call, with what it was for.
    pub fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Os(what, source)
    }

    /// A failed call of the KVM API, by name.
    pub fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |source| Error::Kvm(what, source)
    }

    /// Whether the guest itself failed, rather than the machine around it.
    pub fn is_guest_failure(&self) -> bool {
        matches!(
            self,
            Error::Guest { .. } | Error::Ended { .. } | Error::Hung { .. }
        )
    }

    /// Whether a CPU did what no CPU should, and none does but one that is emulated.
    ///
    /// It took an interrupt while it had interrupts off: KVM checks before it injects, so this is one that is delivered
    /// again. Or it left the guest with registers of the host's kernel: no software has a say in these on the way.
    pub fn is_cpu_fault(&self) -> bool {
        match self {
            Error::Ended { status, .. } => *status == STATUS_MASKED,
            Error::Guest { state, .. } => state.is_hosts(),
            _ => false,
        }
    }
}

impl From<exit_count::error::Error> for Error {
    fn from(error: exit_count::error::Error) -> Self {
        match error {
            exit_count::error::Error::Os(what, source) => Error::Os(what, source),
            exit_count::error::Error::Count(what) => Error::Count(what),
        }
    }
}

fn quote(console: &str) -> String {
    match console.trim_end() {
        "" => String::new(),
        text => format!("\nThe guest's console:\n{text}"),
    }
}
