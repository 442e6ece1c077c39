// SPDX-License-Identifier: GPL-2.0

//! Statistics: counters, the module's totals, and the files in debugfs.

pub(crate) mod counter;
pub(crate) mod debugfs;
pub(crate) mod totals;
