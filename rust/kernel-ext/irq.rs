// SPDX-License-Identifier: GPL-2.0

//! Interrupt contexts.

pub mod softirq;
