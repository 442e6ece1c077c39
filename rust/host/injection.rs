// SPDX-License-Identifier: GPL-2.0

//! Interrupts from eventfds: [`bindings`] holds what a VMM has bound, [`delivery`] brings a source's signals to its
//! [`sink`], and [`softirq`] provides the bottom halves.

pub(crate) mod bindings;
pub(crate) mod delivery;
pub(crate) mod sink;
pub(crate) mod softirq;
