// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ways to be idle that are compared.

use mini_guest::{IdleMode, Mechanism};
use pvirq::device;
use pvirq_protocol::ioctl::PolicyName;

/// The longest window of the guests that decide themselves: Linux's `guest_halt_poll_ns`, and what KVM's `halt_poll_ns` is
/// by default.
pub const REFERENCE_NS: u32 = 200_000;

/// A way to be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HLT, and KVM does not poll.
    Halt,
    /// HLT, and KVM polls.
    KvmHaltPoll,
    /// The guest polls for a fixed time, then executes HLT, and KVM does not poll.
    GuestSpin,
    /// The guest polls as Linux's haltpoll governor does, then executes HLT, and KVM does not poll: that governor has it so.
    GuestGovernor,
    /// pvirq, with one of its policies.
    Pvirq(PolicyName),
}

impl Mode {
    /// pvirq as it is without options.
    pub const DEFAULT: Self = Self::Pvirq(PolicyName::Adaptive);

    /// All modes. The first is what the others are compared with.
    pub const ALL: [Self; 8] = [
        Self::Halt,
        Self::KvmHaltPoll,
        Self::GuestSpin,
        Self::GuestGovernor,
        Self::DEFAULT,
        Self::Pvirq(PolicyName::HaltPoll),
        Self::Pvirq(PolicyName::Fixed),
        Self::Pvirq(PolicyName::Governor),
    ];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::KvmHaltPoll => "kvm-halt-poll",
            Self::GuestSpin => "guest-spin",
            Self::GuestGovernor => "guest-governor",
            Self::Pvirq(PolicyName::Adaptive) => "pvirq-adaptive",
            Self::Pvirq(PolicyName::HaltPoll) => "pvirq-halt-poll",
            Self::Pvirq(PolicyName::Fixed) => "pvirq-fixed",
            Self::Pvirq(PolicyName::Governor) => "pvirq-governor",
        }
    }

    /// The device that it takes.
    pub fn device(self) -> &'static str {
        match self {
            Self::Pvirq(_) => device::PVIRQ,
            _ => device::KVM,
        }
    }

    /// How the sender sends. Guests that poll tell senders so, with or without a host that knows.
    pub fn mechanism(self) -> Mechanism {
        match self {
            Self::Halt | Self::KvmHaltPoll => Mechanism::X2Apic,
            _ => Mechanism::Pvirq,
        }
    }

    /// The sender's way in results.
    pub fn mechanism_name(self) -> &'static str {
        match self {
            Self::Halt | Self::KvmHaltPoll => "x2apic",
            Self::GuestSpin | Self::GuestGovernor => "post",
            Self::Pvirq(_) => "pvirq",
        }
    }

    /// What the guest's idle vCPU does.
    pub fn idle_mode(self) -> IdleMode {
        match self {
            Self::Halt | Self::KvmHaltPoll => IdleMode::Halted,
            Self::GuestSpin => IdleMode::Spin,
            Self::GuestGovernor => IdleMode::Governor,
            Self::Pvirq(_) => IdleMode::Idle,
        }
    }

    /// How long KVM polls, if that is not left to pvirq.
    pub fn halt_poll_ns(self) -> Option<u32> {
        match self {
            Self::KvmHaltPoll => Some(REFERENCE_NS),
            Self::Pvirq(_) => None,
            _ => Some(0),
        }
    }

    /// How long the guest polls, if it decides that itself.
    pub fn window_ns(self) -> Option<u32> {
        match self {
            Self::GuestSpin | Self::GuestGovernor => Some(REFERENCE_NS),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names_of_their_own_and_all_policies_are_there() {
        let mut names: Vec<_> = Mode::ALL.iter().map(|mode| mode.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mode::ALL.len());
        for policy in PolicyName::ALL {
            assert!(Mode::ALL.contains(&Mode::Pvirq(*policy)), "{policy:?}");
        }
    }
}
