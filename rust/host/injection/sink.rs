// SPDX-License-Identifier: GPL-2.0

//! Sinks: where a source's interrupt goes if the vCPU will not poll.
//!
//! A new kind is a variant here, a flag of [`Bind`](pvirq_protocol::ioctl::Bind), and a line where that flag is read.

use kernel_ext::fs::eventfd::EventFd;

pub(crate) enum Sink {
    /// The top half kicks the bound vCPU.
    Kick,
    /// A bottom half signals an eventfd, for example that of a KVM irqfd.
    EventFd(EventFd),
}

impl Sink {
    /// Returns whether a bottom half delivers.
    #[inline]
    pub(crate) fn needs_bottom_half(&self) -> bool {
        !matches!(self, Self::Kick)
    }

    /// Delivers. In a bottom half.
    pub(crate) fn deliver(&self) {
        match self {
            Self::Kick => {}
            Self::EventFd(eventfd) => eventfd.signal(),
        }
    }

    /// Returns whether the sink is the eventfd `other`.
    pub(crate) fn is_eventfd(&self, other: &EventFd) -> bool {
        matches!(self, Self::EventFd(eventfd) if eventfd == other)
    }
}
