// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What stops in its post, and how.

use std::fmt;

use mini_guest::{Mechanism, StopAt};

exit_count::named! {
    /// What stops.
    FrozenCase {
        /// A process of the VMM that posts.
        Process = "process",
        /// A vCPU.
        Vcpu = "vcpu",
    }
}

impl FrozenCase {
    /// The one that sends, the one that is interrupted, and the one that stops.
    pub(super) fn vcpus(self) -> usize {
        match self {
            FrozenCase::Process => 2,
            FrozenCase::Vcpu => 3,
        }
    }

    /// What is measured in turn, by which mechanism. What the others are compared with comes first.
    pub(super) fn cells(self) -> Vec<(Mechanism, Culprit)> {
        use Mechanism::{Pvirq, X2Apic};
        match self {
            FrozenCase::Process => vec![
                (X2Apic, Culprit::Killed),
                (X2Apic, Culprit::None),
                (Pvirq, Culprit::None),
                (Pvirq, Culprit::Killed),
            ],
            FrozenCase::Vcpu => vec![
                (X2Apic, Culprit::Stopped(StopAt::BetweenPosts)),
                (Pvirq, Culprit::Stopped(StopAt::BetweenPosts)),
                (Pvirq, Culprit::Stopped(StopAt::AfterSet)),
            ],
        }
    }
}

impl fmt::Display for FrozenCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the other sender stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// There is none.
    None,
    /// It is killed.
    Killed,
    /// It is kept out of `KVM_RUN`.
    Stopped(StopAt),
}

impl Culprit {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Culprit::None => "none",
            Culprit::Killed => "killed",
            Culprit::Stopped(StopAt::Nowhere) => "nowhere",
            Culprit::Stopped(StopAt::BetweenPosts) => "between-posts",
            Culprit::Stopped(StopAt::AfterSet) => "after-set",
        }
    }
}
