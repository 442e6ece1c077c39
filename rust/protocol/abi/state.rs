// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a vCPU is doing, as far as a sender has to know.
//!
//! The states are words in shared memory. Zero is [`Running`](HostState::Running), so a descriptor
//! that nobody has registered yet swallows no interrupt, and so is every value without a meaning.

/// Where the host has a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HostState {
    /// In the guest, or about to be. It will not look.
    Running = 0,
    /// Asleep until the platform's own interrupt wakes it. It will not look.
    Blocked = 1,
    /// Taken off its CPU while it had work to do. It will look when it is back.
    Preempted = 2,
    /// Not in `KVM_RUN`: its VMM has it. It will look when it returns.
    Outside = 3,
    /// The host polls on its behalf. It will look when it goes on.
    Polling = 4,
}

impl HostState {
    /// Whether the vCPU will look at its pending bits before it does anything else.
    #[inline]
    pub const fn will_poll(self) -> bool {
        matches!(self, Self::Preempted | Self::Outside | Self::Polling)
    }

    /// What a word in memory stands for.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Blocked,
            2 => Self::Preempted,
            3 => Self::Outside,
            4 => Self::Polling,
            _ => Self::Running,
        }
    }

    /// The word that stands for it in memory.
    #[inline]
    pub const fn word(self) -> u32 {
        self as u32
    }
}

/// What the guest says of its own vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GuestState {
    /// At work, or in a halt. It will not look.
    Running = 0,
    /// Idle, and polling its descriptor. It will look when it goes on.
    Polling = 1,
}

impl GuestState {
    /// Whether the vCPU will look at its pending bits before it does anything else.
    #[inline]
    pub const fn will_poll(self) -> bool {
        matches!(self, Self::Polling)
    }

    /// What a word in memory stands for.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Polling,
            _ => Self::Running,
        }
    }

    /// The word that stands for it in memory.
    #[inline]
    pub const fn word(self) -> u32 {
        self as u32
    }
}

/// The longest poll, in ns. With a longer one a vCPU would hardly ever sleep.
pub const POLL_MAX_NS: u32 = 10_000_000;

numbered! {
    /// What has ended an idle call.
    pub enum IdleEnd: u32 {
        /// The host has polled for as long as it wanted to.
        Expired = 0,
        /// Somebody has posted an interrupt. It has been injected.
        Posted = 1,
        /// There is, or may be, something else for the vCPU: a timer, a device's interrupt, an NMI.
        Event = 2,
        /// Somebody else can use the CPU, or the VM has burnt its share of one by polling.
        Contended = 3,
    }
}

impl IdleEnd {
    /// Whether the vCPU is to sleep now.
    #[inline]
    pub const fn may_halt(self) -> bool {
        matches!(self, Self::Expired | Self::Contended)
    }
}
