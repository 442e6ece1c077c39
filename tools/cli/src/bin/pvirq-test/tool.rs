// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command, as tests call it, and its results.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::ktap::{Context, Twice};

/// Runs the command with the words of `line` as arguments; `DEVICE` stands for the device.
pub fn pvirq(context: &Context, line: &str) -> Result<Output> {
    let device = context
        .device
        .to_str()
        .context("the device's name is not text")?;
    let arguments = line.split_whitespace().map(|word| match word {
        "DEVICE" => device,
        word => word,
    });
    Command::new(&context.command)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", context.command.display()))
}

/// What the command has written to standard output and standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Checks the command's status, and that it has said something.
pub fn check(output: &Output, status: i32, text: &str) -> Result<()> {
    let said = said(output);
    ensure!(
        output.status.code() == Some(status),
        "{}, not {status}: {said}",
        output.status
    );
    ensure!(said.contains(text), "no '{text}' in: {said}");
    Ok(())
}

/// Runs the command several times: what each line says is wrong.
pub fn check_all(context: &Context, cases: &[(&str, i32, &str)]) -> Result<()> {
    for (line, status, text) in cases {
        check(&pvirq(context, line)?, *status, text)?;
    }
    Ok(())
}

/// Results of a benchmark.
pub struct Results {
    directory: TempDir,
    /// What the command has said.
    pub output: Output,
    /// The report.
    pub report: Value,
}

impl Results {
    /// Where they are.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("results.json")
    }

    /// The rows.
    pub fn rows(&self) -> &[Value] {
        self.report["rows"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// Runs `pvirq bench`, and reads its results. Fails if interrupts were lost, and by [`Twice`] if some came twice.
pub fn bench(context: &Context, line: &str) -> Result<Results> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("results.json");
    let output = pvirq(context, &format!("bench {line} --json {}", path.display()))?;
    let said = said(&output);
    let Ok(text) = fs::read(&path) else {
        bail!("{}: {said}", output.status);
    };
    let report: Value = serde_json::from_slice(&text)?;
    ensure!(report["schema"] == "pvirq-bench/1", "{report}");
    ensure!(report["environment"]["ground"].is_string(), "{report}");
    let entries = fs::read_dir(directory.path())?.count();
    ensure!(entries == 1, "a partial file was left");
    let results = Results {
        directory,
        output,
        report,
    };
    ensure!(!results.rows().is_empty(), "no rows: {said}");
    let is_zero = |value: &Value| value.is_null() || *value == 0;
    for row in results.rows() {
        ensure!(is_zero(&row["lost"]), "{row}: {said}");
    }
    let came_twice = |row: &Value| !is_zero(&row["duplicates"]) || !is_zero(&row["twice"]);
    let status = results.output.status;
    ensure!(
        status.success() || !results.rows().iter().any(came_twice),
        Twice
    );
    ensure!(status.success(), "{status}: {said}");
    Ok(results)
}

/// Returns a number of a row.
pub fn number(row: &Value, pointer: &str) -> Result<f64> {
    let number = row.pointer(pointer).and_then(Value::as_f64);
    number.with_context(|| format!("no {pointer} in {row}"))
}
