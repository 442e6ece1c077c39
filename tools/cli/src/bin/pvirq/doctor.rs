// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq doctor`: checks whether this machine can use pvirq.

mod facts;
mod findings;

use std::process::ExitCode;

use anyhow::Result;

use self::{
    facts::Facts,
    findings::{diagnose, Mark},
};

/// Says what this machine has, and what that means for the use of pvirq
///
/// The exit status is 0 if pvirq can be used, else 1.
#[derive(clap::Args)]
pub struct Args {}

/// Prints the findings.
pub fn run(_: &Args) -> Result<ExitCode> {
    let (findings, usable) = diagnose(&Facts::gather()?);
    for finding in findings {
        let mark = match finding.mark {
            Mark::Good => "ok",
            Mark::Note => "--",
            Mark::Bad => "!!",
        };
        println!("{mark}  {:<11} {}", finding.subject, finding.fact);
        if !finding.meaning.is_empty() {
            println!("    {:<11} {}", "", finding.meaning);
        }
    }
    println!();
    if usable {
        println!("pvirq can be used.");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("pvirq cannot be used: see the lines with !! above.");
        Ok(ExitCode::FAILURE)
    }
}
