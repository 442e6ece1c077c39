// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Running tests, and saying how they went in KTAP.

use std::io::{stdout, Result, Write};

use crate::Context;

/// How a test went, if it did not fail.
pub enum Outcome {
    /// It passed.
    Pass,
    /// It could not be done, for a reason.
    Skip(&'static str),
}

/// A test: its name, and what it does.
pub type Test = (&'static str, fn(&Context) -> anyhow::Result<Outcome>);

/// Tests to be run.
#[derive(Default)]
pub struct Plan(Vec<(Context, Vec<Test>)>);

impl Plan {
    /// Adds tests for a device.
    pub fn add(&mut self, context: Context, tests: Vec<Test>) {
        self.0.push((context, tests));
    }

    /// Runs all tests. Says whether none failed.
    pub fn run(&self) -> Result<bool> {
        let mut out = stdout().lock();
        let count: usize = self.0.iter().map(|(_, tests)| tests.len()).sum();
        writeln!(out, "KTAP version 1\n1..{count}")?;

        let mut number = 0;
        let mut success = true;
        for (context, tests) in &self.0 {
            for (name, test) in tests {
                number += 1;
                let name = format!("{} {name}", context.device.display());
                match test(context) {
                    Ok(Outcome::Pass) => writeln!(out, "ok {number} {name}")?,
                    Ok(Outcome::Skip(reason)) => {
                        writeln!(out, "ok {number} {name} # SKIP {reason}")?
                    }
                    Err(error) => {
                        success = false;
                        for line in format!("{error:#}").lines() {
                            writeln!(out, "# {line}")?;
                        }
                        writeln!(out, "not ok {number} {name}")?;
                    }
                }
                out.flush()?;
            }
        }
        Ok(success)
    }
}
