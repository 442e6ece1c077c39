// SPDX-License-Identifier: GPL-2.0

//! What the test VM's program and the programs in its machines share.

pub mod frame;
