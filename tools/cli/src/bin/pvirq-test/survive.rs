// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Guests that are saved and restored, and senders that are stopped in their posts.

use std::{fs, path::Path, process::Command};

use anyhow::{bail, ensure, Context as _, Result};
use pvirq::device::KVM;
use serde_json::Value;

use crate::{
    ktap::{Context, Outcome, Test, Twice},
    posts::is_pvirq,
};

pub const TESTS: &[Test] = &[
    ("interrupts survive saves and restores", |context| {
        survive(context, if is_pvirq(context) { "pvirq" } else { "kvm" })
    }),
    ("interrupts survive that the device changes", |context| {
        survive(context, "both")
    }),
    (
        "a process that is killed in its post delays no other sender",
        |context| frozen(context, "process", 50),
    ),
    (
        "a vCPU that is stopped in its post delays no other sender",
        |context| frozen(context, "vcpu", 25),
    ),
];

/// Runs a benchmark, and returns its rows, unless it has failed by interrupts that were lost.
fn rows(context: &Context, arguments: &[&str]) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("results.json");
    let output = Command::new(&context.command)
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .arg(&path)
        .output()
        .with_context(|| format!("cannot run {}", context.command.display()))?;
    let said =
        String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    let report: Value = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(_) => bail!("{said}"),
    };
    ensure!(report["schema"] == "pvirq-bench/1", "{report}");
    ensure!(report["environment"]["ground"].is_string(), "{report}");
    let rows = report["rows"].as_array().context("no rows")?.clone();
    ensure!(!rows.is_empty(), "no rows: {said}");
    for row in &rows {
        ensure!(row["lost"] == 0, "{row}: {said}");
    }
    ensure!(rows.iter().all(|row| is_zero(&row["twice"])), Twice);
    ensure!(output.status.success(), "{said}");
    Ok(rows)
}

/// Whether a number is 0, or there is none.
fn is_zero(value: &Value) -> bool {
    value.is_null() || *value == 0
}

fn survive(context: &Context, devices: &str) -> Result<Outcome> {
    const ROUNDS: u64 = 20;

    if devices == "both" && !is_pvirq(context) {
        return Ok(Outcome::Skip("it takes both devices"));
    }
    let rounds = ROUNDS.to_string();
    let arguments = [
        "survive",
        "--devices",
        devices,
        "--rounds",
        &rounds,
        "--vcpus",
        "2,4",
    ];
    let rows = rows(context, &arguments)?;
    // Two mechanisms with 2 and 4 vCPUs, and where there is pvirq two ways to save what is posted.
    let expected = if devices == "kvm" { 4 } else { 8 };
    ensure!(rows.len() == expected, "{} rows", rows.len());
    let (mut paused, mut posting, mut registrations, mut elided) = (0, 0, 0, 0);
    for row in &rows {
        let count = |name: &str| row[name].as_u64().context(name.to_owned());
        ensure!(count("rounds")? == ROUNDS, "{row}");
        ensure!(count("ipis")? != 0 && count("signals")? != 0, "{row}");
        paused += count("signals_while_paused")?;
        // Otherwise it has not tried much.
        ensure!(count("saved_in_lapics")? != 0, "{row}");
        if row["mechanism"] == "pvirq" && devices == "pvirq" {
            posting += 1;
            registrations += count("registrations")?;
            elided += row["posts"]["elided"].as_u64().context("no posts")?;
        }
    }
    // By chance there are none in the rounds of one row.
    ensure!(paused != 0, "no eventfd was signalled during a pause");
    ensure!(
        posting == 0 || registrations > posting && elided != 0,
        "{registrations} registrations and {elided} posts in {posting} rows"
    );
    Ok(Outcome::Pass)
}

fn frozen(context: &Context, case: &str, stops: u64) -> Result<Outcome> {
    if !is_pvirq(context) || !Path::new(KVM).exists() {
        return Ok(Outcome::Skip("no guest can register here"));
    }
    let number = stops.to_string();
    let rows = rows(context, &["frozen", "--case", case, "--stops", &number])?;
    for row in &rows {
        let events = row["events"].as_u64().context("no events")?;
        ensure!(events >= stops, "{row}");
        let stopped = row["stopped"].as_str().context("nothing is stopped")?;
        ensure!(
            row["stops"] == if stopped == "none" { 0 } else { stops },
            "{row}"
        );
    }
    // Every way to stop has been tried.
    let ways = if case == "vcpu" { 3 } else { 4 };
    ensure!(rows.len() == ways, "{} rows", rows.len());
    Ok(Outcome::Pass)
}
