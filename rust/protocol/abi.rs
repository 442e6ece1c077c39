// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What host and guest agree on: memory layouts and numbers. The ground floor: the algorithms are above it.

pub(crate) mod descriptor;
pub mod ioctl;
pub(crate) mod irq;
pub mod registers;
pub(crate) mod state;
