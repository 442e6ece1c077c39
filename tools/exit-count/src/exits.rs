// SPDX-License-Identifier: GPL-2.0 OR MIT

//! VM exits, by reason.

use std::{
    fmt,
    ops::{AddAssign, Index},
};

/// The flag of a VMX exit reason that says that the guest was not entered.
const VMX_FAILED_ENTRY: u32 = 1 << 31;

crate::named! {
    /// Why a vCPU left the guest.
    Reason {
        /// It accessed a model-specific register, the x2APIC's among them.
        Msr = "msr",
        /// It halted.
        Hlt = "hlt",
        /// It accessed a port.
        Io = "io",
        /// The host was interrupted: by its timer, or to make the vCPU take an interrupt.
        Intr = "intr",
        /// It had become ready to take an interrupt that waited.
        Window = "window",
        /// It called the hypervisor.
        Hypercall = "hypercall",
        /// It touched a page that was not there, in the tables of the host: AMD's NPT or Intel's EPT.
        Npf = "npf",
        /// It accessed its local APIC, and the CPU's virtual one (APICv or AVIC) left that to the hypervisor.
        Apic = "apic",
        /// It executed PAUSE in a loop.
        Pause = "pause",
        /// VMX's preemption timer expired: for the guest's own timer, or because KVM wanted an exit at once.
        PreemptionTimer = "preemption-timer",
        /// Any other reason.
        Other = "other",
    }
}

impl Reason {
    /// The reason for an exit code of AMD's SVM.
    pub fn from_svm(code: u32) -> Self {
        match code {
            0x60 => Reason::Intr,
            0x64 => Reason::Window,
            0x77 => Reason::Pause,
            0x78 => Reason::Hlt,
            0x7b => Reason::Io,
            0x7c => Reason::Msr,
            0x81 => Reason::Hypercall,
            0x400 => Reason::Npf,
            // AVIC_INCOMPLETE_IPI, AVIC_UNACCELERATED_ACCESS.
            0x401 | 0x402 => Reason::Apic,
            _ => Reason::Other,
        }
    }

    /// The reason for an exit reason of Intel's VMX.
    pub fn from_vmx(reason: u32) -> Self {
        // The upper half has flags, and a failed entry is no exit of a guest.
        if reason & VMX_FAILED_ENTRY != 0 {
            return Reason::Other;
        }
        match reason & 0xffff {
            1 => Reason::Intr,
            7 => Reason::Window,
            12 => Reason::Hlt,
            18 => Reason::Hypercall,
            30 => Reason::Io,
            // The last two by the instructions that have the register's number in them.
            31 | 32 | 84 | 85 => Reason::Msr,
            40 => Reason::Pause,
            // TPR_BELOW_THRESHOLD, APIC_ACCESS, EOI_INDUCED, APIC_WRITE.
            43 | 44 | 45 | 56 => Reason::Apic,
            // EPT_VIOLATION, EPT_MISCONFIG.
            48 | 49 => Reason::Npf,
            52 => Reason::PreemptionTimer,
            _ => Reason::Other,
        }
    }
}

/// How many exits there were for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    counts: [u64; Reason::ALL.len()],
    /// Those of [`Reason::Intr`] that were the host's timer ticks.
    ///
    /// They come with time, not with what the guest does, so they are noise where exits of two devices are compared.
    pub timer: u64,
}

impl Exits {
    /// Counts an exit.
    pub fn count(&mut self, reason: Reason) {
        self.counts[reason as usize] += 1;
    }

    /// Counts one exit less. Says whether there was one.
    pub fn forget(&mut self, reason: Reason) -> bool {
        let count = &mut self.counts[reason as usize];
        let forgotten = count.checked_sub(1);
        *count = forgotten.unwrap_or(0);
        forgotten.is_some()
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All exits but the host's timer ticks.
    pub fn without_timer(&self) -> u64 {
        self.total() - self.timer
    }
}

impl Index<Reason> for Exits {
    type Output = u64;

    fn index(&self, reason: Reason) -> &u64 {
        &self.counts[reason as usize]
    }
}

impl AddAssign for Exits {
    fn add_assign(&mut self, other: Exits) {
        self.counts
            .iter_mut()
            .zip(other.counts)
            .for_each(|(count, more)| *count += more);
        self.timer += other.timer;
    }
}

/// What KVM's statistics say about exits: fewer reasons, but counted by KVM itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All exits.
    pub total: u64,
    /// Exits of [`Reason::Hlt`].
    pub halt: u64,
    /// Exits of [`Reason::Io`].
    pub io: u64,
    /// Exits of [`Reason::Intr`].
    pub irq: u64,
    /// Exits of [`Reason::Window`].
    pub irq_window: u64,
    /// Exits of [`Reason::Hypercall`].
    pub hypercalls: u64,
    /// Halts that ended while KVM polled.
    pub halt_polls: u64,
    /// How long KVM polled in halts, in ns: where that was of use, and where it was not.
    pub halt_polled_ns: u64,
}

crate::arithmetic!(Statistics: total, halt, io, irq, irq_window, hypercalls, halt_polls, halt_polled_ns);

/// A count on which KVM's statistics and its tracepoint differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    what: &'static str,
    statistics: u64,
    trace: u64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disagreement {
            what,
            statistics,
            trace,
        } = self;
        write!(
            f,
            "KVM's statistics have {statistics} exits ({what}), its tracepoint has {trace}"
        )
    }
}

impl Statistics {
    /// Compares with what the tracepoint says about the same time. The two count the same exits, so they must be equal.
    pub fn agree_with(&self, trace: &Exits) -> Result<(), Disagreement> {
        let pairs = [
            ("all", self.total, trace.total()),
            ("hlt", self.halt, trace[Reason::Hlt]),
            ("io", self.io, trace[Reason::Io]),
            ("intr", self.irq, trace[Reason::Intr]),
            ("window", self.irq_window, trace[Reason::Window]),
            ("hypercall", self.hypercalls, trace[Reason::Hypercall]),
        ];
        match pairs
            .into_iter()
            .find(|(_, statistics, trace)| statistics != trace)
        {
            None => Ok(()),
            Some((what, statistics, trace)) => Err(Disagreement {
                what,
                statistics,
                trace,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_counts() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn both_vendors_codes_have_the_same_names() {
        let vmx = |reason| Reason::from_vmx(reason).name();
        let svm = |code| Reason::from_svm(code).name();
        let both = [
            (1, 0x60, "intr"),
            (7, 0x64, "window"),
            (12, 0x78, "hlt"),
            (18, 0x81, "hypercall"),
            (30, 0x7b, "io"),
            (32, 0x7c, "msr"),
            (40, 0x77, "pause"),
            (48, 0x400, "npf"),
            (56, 0x401, "apic"),
            (10, 0x72, "other"),
        ];
        for (reason, code, name) in both {
            assert_eq!((vmx(reason), svm(code)), (name, name));
        }
        let intel = [
            (31, "msr"),
            (84, "msr"),
            (85, "msr"),
            (43, "apic"),
            (44, "apic"),
            (45, "apic"),
            (49, "npf"),
            (52, "preemption-timer"),
            (0, "other"),
            // From an enclave, and a guest that was not entered.
            ((1 << 27) | 1, "intr"),
            ((1 << 31) | 33, "other"),
            ((1 << 31) | 1, "other"),
        ];
        for (reason, name) in intel {
            assert_eq!(vmx(reason), name, "{reason}");
        }
    }

    #[test]
    fn ticks_are_told_apart() {
        let mut exits = Exits::default();
        [Reason::Msr, Reason::Intr, Reason::Intr].map(|reason| exits.count(reason));
        exits.timer = 1;
        assert_eq!((exits.total(), exits.without_timer()), (3, 2));

        assert!(exits.forget(Reason::Msr));
        assert!(!exits.forget(Reason::Msr));
        assert_eq!(exits.total(), 2);
    }

    #[test]
    fn a_disagreement_names_what_differs() {
        let mut trace = Exits::default();
        trace.count(Reason::Hlt);
        let statistics = Statistics {
            total: 1,
            halt: 1,
            ..Default::default()
        };
        assert_eq!(statistics.agree_with(&trace), Ok(()));

        let other = Statistics {
            halt: 0,
            ..statistics
        };
        let disagreement = other.agree_with(&trace).unwrap_err();
        assert_eq!(
            disagreement,
            Disagreement {
                what: "hlt",
                statistics: 0,
                trace: 1
            }
        );
        let fewer = Statistics {
            total: 0,
            ..statistics
        };
        assert_eq!(fewer.agree_with(&trace).unwrap_err().what, "all");
    }
}
