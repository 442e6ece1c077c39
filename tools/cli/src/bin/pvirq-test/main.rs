// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the tool that need KVM: they boot guests, on `/dev/kvm` and, where it is, on `/dev/pvirq`.
//!
//! They are a program of their own, and not cargo's, because they run in the test VM. The program speaks KTAP. It runs the
//! `pvirq` command in its own directory, or the one named by its first argument. With a second one, it runs the tests that have
//! that in their names.

mod command;
mod guests;
mod idle;
mod jobs;
mod ktap;
mod posts;
mod sinks;
mod survive;
mod tool;

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result};
use pvirq::device;

use crate::ktap::{Context, Plan, Test};

fn run() -> Result<bool> {
    let command = match env::args_os().nth(1) {
        Some(path) => path.into(),
        None => env::current_exe()?.with_file_name("pvirq"),
    };
    let part = env::args().nth(2).unwrap_or_default();
    let mut plan = Plan::default();
    for device in device::present() {
        let context = Context {
            command: command.clone(),
            device,
        };
        let mut tests: Vec<Test> = [
            guests::tests,
            jobs::tests,
            posts::tests,
            sinks::tests,
            idle::tests,
            survive::tests,
            command::tests,
        ]
        .iter()
        .flat_map(|tests| tests())
        .collect();
        tests.retain(|test| test.is_named(&part));
        plan.add(context, tests);
    }
    plan.run().context("cannot write the results")
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}
