// SPDX-License-Identifier: GPL-2.0

//! Epochs: the numbers of registrations, see [`ReadRegister::Epoch`](pvirq_protocol::registers::ReadRegister::Epoch).

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel_ext::random::random_u32;
use pvirq_protocol::registers::ABSENT;

/// The number of a registration. It repeats on this host after 2³² registrations; on another host, only by chance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Epoch {
    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

/// Allocates epochs, from a random one on.
pub(crate) struct Epochs(Atomic<u32>);

impl Epochs {
    pub(crate) fn new() -> Self {
        Self(Atomic::new(random_u32()))
    }

    pub(crate) fn next(&self) -> Epoch {
        loop {
            let number = self.0.fetch_add(1, Relaxed);
            // These values mean that there is no registration, or no host.
            if number != 0 && number != ABSENT {
                return Epoch(number);
            }
        }
    }
}
