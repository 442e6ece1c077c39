// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The interface of host, guest and VMM: memory layouts and numbers. The algorithms build on it.

pub(crate) mod descriptor;
pub mod ioctl;
pub(crate) mod irq;
pub mod registers;
pub(crate) mod state;
