// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Running tests, and saying how they went in KTAP.

use std::{
    fmt,
    io::{stdout, Result, Write},
    path::PathBuf,
};

use anyhow::ensure;
use pvirq::device::PVIRQ;
use pvirq_bench::ground::Ground;
use vmm::error::Error;

/// What tests need.
pub struct Context {
    /// The `pvirq` command.
    pub command: PathBuf,
    /// The device to test.
    pub device: PathBuf,
}

/// What a test does.
type Run = dyn Fn(&Context) -> anyhow::Result<()>;

/// A test: its name, and what it does.
pub struct Test {
    name: String,
    run: Box<Run>,
}

/// Makes a test.
pub fn test(
    name: impl Into<String>,
    run: impl Fn(&Context) -> anyhow::Result<()> + 'static,
) -> Test {
    Test {
        name: name.into(),
        run: Box::new(run),
    }
}

impl Test {
    /// Whether its name has a text in it.
    pub fn is_named(&self, part: &str) -> bool {
        self.name.contains(part)
    }
}

impl Context {
    /// Whether guests can register here.
    pub fn is_pvirq(&self) -> bool {
        self.device.to_str() == Some(PVIRQ)
    }

    /// Skips a test that needs pvirq's device, for a reason.
    pub fn needs_pvirq(&self, reason: &'static str) -> anyhow::Result<()> {
        ensure!(self.is_pvirq(), Skip(reason));
        Ok(())
    }
}

/// A test cannot be done here, for a reason.
#[derive(Debug)]
pub struct Skip(pub &'static str);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skip {}

/// An interrupt came twice, and nothing else was wrong.
#[derive(Debug)]
pub struct Twice;

impl fmt::Display for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an interrupt came twice")
    }
}

impl std::error::Error for Twice {}

/// Whether a test has failed by what TCG does now and then, on `/dev/kvm` as well: see Documentation/smp-guests.rst.
fn is_the_emulators(error: &anyhow::Error) -> bool {
    let fault = error.downcast_ref().is_some_and(Error::is_cpu_fault);
    Ground::detect() == Ground::QemuTcg && (fault || error.is::<Twice>())
}

/// Runs a test; if the emulator has failed, once more, and says so. What fails again is not the emulator's.
fn run(test: &Test, context: &Context, out: &mut impl Write) -> Result<anyhow::Result<()>> {
    match (test.run)(context) {
        Err(error) if is_the_emulators(&error) => {
            for line in format!("once more, as the emulator has failed: {error:#}").lines() {
                writeln!(out, "# {line}")?;
            }
            Ok((test.run)(context))
        }
        done => Ok(done),
    }
}

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
            for test in tests {
                number += 1;
                let name = format!("{} {}", context.device.display(), test.name);
                match run(test, context, &mut out)? {
                    Ok(()) => writeln!(out, "ok {number} {name}")?,
                    Err(error) if error.is::<Skip>() => {
                        writeln!(out, "ok {number} {name} # SKIP {error}")?
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
