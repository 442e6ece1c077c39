// SPDX-License-Identifier: GPL-2.0

//! x86: the guest interface is a range of I/O ports, and vectors are injected as MSIs to local APICs.

pub(crate) mod irqchip;
pub(crate) mod msi;
pub(crate) mod ports;
pub(crate) mod run_area;
pub(crate) mod state;
