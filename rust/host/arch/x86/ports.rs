// SPDX-License-Identifier: GPL-2.0

//! The I/O ports of the guest interface.

use kernel::prelude::*;
use pvirq_protocol::registers::LEN;

/// A range of [`LEN`] ports.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    base: u16,
}

impl Ports {
    /// Creates the range that begins at `base`, which must be a multiple of [`LEN`].
    pub(crate) fn new(base: u16) -> Result<Self> {
        if base % LEN != 0 {
            pr_err!("port={base:#x} is not a multiple of {LEN}\n");
            return Err(EINVAL);
        }
        Ok(Self { base })
    }

    /// Returns the offset of `port` in the range, if it is in it.
    #[inline]
    pub(crate) fn offset(&self, port: u16) -> Option<u16> {
        port.checked_sub(self.base).filter(|offset| *offset < LEN)
    }
}
