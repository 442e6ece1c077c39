// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The states of a vCPU, as far as senders need them.
//!
//! They are words in shared memory. Zero is [`Running`](HostState::Running), and so is every unknown value: a descriptor
//! that is not registered yet swallows no interrupt.

/// The state of a vCPU in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HostState {
    /// In the guest, or about to enter it. Will not poll.
    Running = 0,
    /// Asleep until a native interrupt. Will not poll.
    Blocked = 1,
    /// Taken off its CPU while it had work to do. Will poll when it is back.
    Preempted = 2,
    /// With the VMM, for I/O that KVM completes on the next `KVM_RUN`. Will poll there.
    Outside = 3,
    /// The host polls for the vCPU.
    Polling = 4,
}

impl HostState {
    /// Returns whether the vCPU will poll: read its pending bits before it does anything else.
    #[inline]
    pub const fn will_poll(self) -> bool {
        matches!(self, Self::Preempted | Self::Outside | Self::Polling)
    }

    /// Returns the state that a word in memory stands for.
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

    /// Returns the word that stands for the state in memory.
    #[inline]
    pub const fn word(self) -> u32 {
        self as u32
    }
}

/// The state of a vCPU in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GuestState {
    /// At work or halted. Will not poll.
    Running = 0,
    /// Idle, and polling its descriptor.
    Polling = 1,
}

impl GuestState {
    /// Returns whether the vCPU will poll: read its pending bits before it does anything else.
    #[inline]
    pub const fn will_poll(self) -> bool {
        matches!(self, Self::Polling)
    }

    /// Returns the state that a word in memory stands for.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Polling,
            _ => Self::Running,
        }
    }

    /// Returns the word that stands for the state in memory.
    #[inline]
    pub const fn word(self) -> u32 {
        self as u32
    }
}

/// The longest poll window, in ns. With a longer one a vCPU would hardly ever sleep.
pub const POLL_MAX_NS: u32 = 10_000_000;

numbered! {
    /// The reason why an idle call has ended.
    pub enum IdleEnd: u32 {
        /// The host has polled for its window.
        Expired = 0,
        /// An interrupt was posted, and has been injected.
        Posted = 1,
        /// There is, or may be, another event for the vCPU: a timer, a device's interrupt, an NMI.
        Event = 2,
        /// Another task wants the CPU, or the VM has used up its budget for polling.
        Contended = 3,
    }
}

impl IdleEnd {
    /// Returns whether the vCPU should halt now.
    #[inline]
    pub const fn may_halt(self) -> bool {
        matches!(self, Self::Expired | Self::Contended)
    }
}
