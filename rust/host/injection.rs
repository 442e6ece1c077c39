// SPDX-License-Identifier: GPL-2.0

//! Interrupts from eventfds: [`bindings`] holds what a VMM has bound, [`delivery`] is one source's way to its [`sink`],
//! and [`softirq`] the bottom halves that deliver.

pub(crate) mod bindings;
pub(crate) mod delivery;
pub(crate) mod sink;
pub(crate) mod softirq;
