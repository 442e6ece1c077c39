// SPDX-License-Identifier: GPL-2.0

//! A machine that runs, on any ground.

use std::{any::Any, io::Read, thread::JoinHandle};

use anyhow::Result;

use crate::process::Process;

/// A machine that runs.
pub struct Started {
    /// The emulator.
    pub process: Process,
    /// What the command prints, unless it has the terminal.
    pub output: Option<Box<dyn Read + Send>>,
    /// What takes the results out of the machine, where the machine does not write them to the source tree itself.
    pub receiver: Option<JoinHandle<Result<()>>>,
    /// What must live as long as the machine.
    pub servers: Box<dyn Any>,
}
