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
    pub(super) fn cells(self) -> Vec<(Mechanism, OtherSender)> {
        use Mechanism::{Pvirq, X2Apic};
        match self {
            FrozenCase::Process => vec![
                (X2Apic, OtherSender::Killed),
                (X2Apic, OtherSender::None),
                (Pvirq, OtherSender::None),
                (Pvirq, OtherSender::Killed),
            ],
            FrozenCase::Vcpu => vec![
                (X2Apic, OtherSender::Stopped(StopAt::BetweenPosts)),
                (Pvirq, OtherSender::Stopped(StopAt::BetweenPosts)),
                (Pvirq, OtherSender::Stopped(StopAt::AfterSet)),
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
pub enum OtherSender {
    /// There is none.
    None,
    /// It is killed.
    Killed,
    /// It is kept out of `KVM_RUN`.
    Stopped(StopAt),
}

impl OtherSender {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            OtherSender::None => "none",
            OtherSender::Killed => "killed",
            OtherSender::Stopped(StopAt::Nowhere) => "nowhere",
            OtherSender::Stopped(StopAt::BetweenPosts) => "between-posts",
            OtherSender::Stopped(StopAt::AfterSet) => "after-set",
        }
    }
}
