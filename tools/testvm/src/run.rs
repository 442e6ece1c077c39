// SPDX-License-Identifier: GPL-2.0

//! A machine's run and its end.

use std::{fs, io::Read, process::ExitStatus, thread};

use anyhow::{Context, Result};

use crate::{bochs, console, ground::Ground, qemu, started::Started, vm::Vm};

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this status, and the machine powered off.
    Exited(i32),
    /// The emulator ended, and the command had left no status.
    NoStatus(ExitStatus),
    /// The machine outlived its limit and was stopped.
    TimedOut,
}

/// What a run left.
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What the command printed.
    pub lines: Vec<String>,
}

impl Vm {
    /// Boots the machine, waits for its end or its limit, and returns what it left. `relay` reads what the command
    /// prints until there is no more.
    ///
    /// # Errors
    ///
    /// The emulator, or what it needs, could not be started, or the results could not be taken out.
    pub fn run(&self, relay: fn(Box<dyn Read + Send>) -> Vec<String>) -> Result<Run> {
        let status = self.dir.join("status");
        if status.exists() {
            fs::remove_file(&status)?;
        }
        fs::write(self.dir.join("command"), &self.command)?;

        let Started {
            mut process,
            output,
            receiver,
            servers,
        } = match &self.ground {
            Ground::Qemu(accel) => qemu::start(self, *accel)?,
            Ground::Bochs(bochs) => bochs::start(self, bochs)?,
        };
        let output = output.map(|output| thread::spawn(move || relay(output)));
        let ended = process.wait(self.timeout)?;
        // Closes the emulator's end of the pipe, so that the readers end.
        drop(process);
        if let Some(receiver) = receiver {
            receiver
                .join()
                .expect("the receiver does not panic")
                .context("cannot take the results out of the machine")?;
        }
        let lines = output
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        drop(servers);
        let status = fs::read_to_string(status)
            .ok()
            .and_then(|text| text.trim().parse().ok());

        Ok(Run {
            outcome: match (ended, status) {
                (_, Some(status)) => Outcome::Exited(status),
                (Some(emulator), None) => Outcome::NoStatus(emulator),
                (None, None) => Outcome::TimedOut,
            },
            lines,
        })
    }

    /// The kernel's messages of a run that has ended as `outcome` says.
    ///
    /// # Errors
    ///
    /// A log cannot be read.
    pub fn kernel_log(&self, outcome: Outcome) -> Result<String> {
        let mut log = console::read(&self.console_log())?;
        if matches!(self.ground, Ground::Bochs(_)) && !matches!(outcome, Outcome::Exited(_)) {
            // The last words, which no process has sent any more.
            log += &console::read(&self.dir.join(bochs::SERIAL_LOG))?;
        }
        Ok(log)
    }
}
