// SPDX-License-Identifier: GPL-2.0

//! Where a source's interrupt goes if the vCPU does not pick it up by itself.
//!
//! A new kind is a variant here, a flag of [`Bind`](pvirq_protocol::ioctl::Bind), and a line where that is read.

use kernel_ext::fs::eventfd::EventFd;

/// A sink.
pub(crate) enum Sink {
    /// The bound vCPU is kicked, by the top half.
    Kick,
    /// A bottom half signals an eventfd, such as one that is bound to KVM's irqfd. An eventfd's callback must not signal
    /// another eventfd.
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

    /// Returns whether it is this eventfd.
    pub(crate) fn is_eventfd(&self, other: &EventFd) -> bool {
        matches!(self, Self::EventFd(eventfd) if eventfd == other)
    }
}
