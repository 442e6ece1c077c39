// SPDX-License-Identifier: GPL-2.0

//! Programs that a run starts.

use std::{
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(20);

/// A child that does not outlive its owner.
pub struct Process(pub Child);

impl Process {
    /// Waits for the end; none if it did not come in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(TICK);
        }
        Ok(None)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either it has ended, or this ends it. Nothing can be done about an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
