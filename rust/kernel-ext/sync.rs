// SPDX-License-Identifier: GPL-2.0

//! Locks, RCU, and `READ_ONCE()`.

pub mod killable;
pub mod rcu_box;
pub mod read_once;
