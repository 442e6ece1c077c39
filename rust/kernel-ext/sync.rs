// SPDX-License-Identifier: GPL-2.0

//! Locks, RCU, and single accesses to memory.

pub mod killable;
pub mod rcu_box;
pub mod read_once;
