// SPDX-License-Identifier: GPL-2.0

//! Tasks and the scheduler.

pub mod preempt;
pub mod task;
pub mod thread_flags;
