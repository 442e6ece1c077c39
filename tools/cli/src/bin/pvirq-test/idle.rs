// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Idle vCPUs, and what interrupts them.

use std::{fs, process::Command, sync::atomic::Ordering::SeqCst};

use anyhow::{bail, ensure, Context as _, Result};
use mini_guest::{IdleMode, Job, JobKind, Mechanism, Source};
use serde_json::Value;
use vmm::cpus::CpuList;

use crate::{
    jobs::{job, LIMIT},
    ktap::{Context, Outcome, Test},
    posts::{is_pvirq, registered},
};

pub const TESTS: &[Test] = &[
    ("idle: nothing is missed", arrivals),
    ("idle: what does not come is missed", missed),
    ("idle: interrupts are taken while somebody polls", latency),
    ("idle: polling gives way to a neighbour", contention),
    ("idle: a neighbour's throughput is measured", neighbour),
];

/// Runs `pvirq bench idle`, and returns its rows.
fn bench(context: &Context, case: &str, arguments: &[&str]) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("poll.json");
    let output = Command::new(&context.command)
        .args(["bench", "idle", "--case", case, "--json"])
        .arg(&path)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", context.command.display()))?;
    let said =
        String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{}: {said}", output.status);
    let report: Value = serde_json::from_slice(&fs::read(&path)?)?;
    ensure!(report["schema"] == "pvirq-bench/1", "{report}");
    let rows = report["rows"].as_array().context("no rows")?;
    for row in rows {
        ensure!(row["bench"] == "idle" && row["case"] == case, "{row}");
    }
    Ok(rows.clone())
}

fn number(row: &Value, pointer: &str) -> Result<f64> {
    let number = row.pointer(pointer).and_then(Value::as_f64);
    number.with_context(|| format!("no {pointer} in {row}"))
}

fn arrivals(context: &Context) -> Result<Outcome> {
    const PERIODS: f64 = 1500.0;

    if !is_pvirq(context) {
        return Ok(Outcome::Skip("no guest can register here"));
    }
    // On one CPU: in parallel, emulated CPUs fail.
    let cpu = CpuList::allowed()?.in_turn(2)[1].to_string();
    let mut ended = [[0.0; 3]; Source::COUNT];
    let mut posts = [0.0; 2];
    // What comes in which step is chance, and on a slow machine hardly any come in the first.
    for _ in 0..4 {
        let rows = bench(
            context,
            "arrivals",
            &["--cpus", &cpu, "--events", &PERIODS.to_string()],
        )?;
        let mut periods = 0.0;
        for row in &rows {
            ensure!(row["lost"] == 0, "{row}");
            periods += number(row, "/periods")?;
            posts[0] += number(row, "/posts/elided")?;
            posts[1] += number(row, "/posts/kicked")?;
            for (source, ended) in ended.iter_mut().enumerate() {
                for (step, name) in ["in_guest", "in_host", "in_halt"].iter().enumerate() {
                    ended[step] += number(row, &format!("/ended/{source}/{name}"))?;
                }
            }
        }
        ensure!(periods == PERIODS, "{periods} periods");
        if ended
            .iter()
            .flatten()
            .chain(&posts)
            .all(|&count| count != 0.0)
        {
            return Ok(Outcome::Pass);
        }
    }
    bail!("it has not tried much: {ended:?} by source and step, {posts:?} elided and kicked")
}

fn missed(context: &Context) -> Result<Outcome> {
    if !is_pvirq(context) {
        return Ok(Outcome::Skip("no guest can register here"));
    }
    let mut machine = registered(context, 2)?;
    let patience = u64::from(machine.tsc_khz()) * 2000;
    let job = Job {
        mechanism: Mechanism::Pvirq,
        idle_mode: IdleMode::Idle,
        patience,
        ..job(JobKind::Arrivals)
    };
    // Nobody signals an eventfd.
    machine
        .shared()?
        .arrivals
        .set_up(&[Source::Event], 0, 0, false);
    machine.run_job(Some(&job), LIMIT)?;
    let lost = machine.shared()?.lost.load(SeqCst);
    let console = machine.console();
    ensure!(
        lost == 1 && console.contains("period 1 does not end"),
        "{lost} lost: {console}"
    );
    // What comes is not missed.
    machine
        .shared()?
        .arrivals
        .set_up(&[Source::Timer], 0, 0, false);
    machine.run_job(
        Some(&Job {
            patience: job.patience * 10,
            ..job
        }),
        LIMIT,
    )?;
    let shared = machine.shared()?;
    let (lost, periods) = (shared.lost.load(SeqCst), shared.events.load(SeqCst));
    ensure!(
        (lost, periods) == (0, job.sends.into()),
        "{lost} lost, {periods} periods"
    );
    Ok(Outcome::Pass)
}

fn latency(context: &Context) -> Result<Outcome> {
    if !is_pvirq(context) {
        return Ok(Outcome::Skip("it compares with /dev/kvm"));
    }
    for case in ["timer", "irqfd"] {
        let rows = bench(context, case, &["--events", "100"])?;
        ensure!(rows.len() == 3, "{} rows", rows.len());
        for (row, poller) in rows.iter().zip(["kvm", "guest", "idle-call"]) {
            ensure!(row["poller"] == poller && row["events"] == 100, "{row}");
            // On a busy machine not all of them, since neither polls then.
            ensure!(number(row, "/polled")? >= 10.0, "{row}");
            ensure!(number(row, "/ns/p50")? > 0.0, "{row}");
        }
        for row in &rows[1..] {
            ensure!(number(row, "/relative/p50")? > 0.0, "{row}");
        }
    }
    Ok(Outcome::Pass)
}

fn contention(context: &Context) -> Result<Outcome> {
    if !is_pvirq(context) {
        return Ok(Outcome::Skip("no guest can register here"));
    }
    let rows = bench(context, "contention", &["--pairs", "3"])?;
    ensure!(rows.len() == 3, "{} rows", rows.len());
    for row in &rows {
        // It ends at all: how soon, a busy machine cannot tell.
        ensure!(
            row["rounds"] == 3 && number(row, "/windows_zero_ms/p50")? < 75.0,
            "{row}"
        );
    }
    Ok(Outcome::Pass)
}

fn neighbour(context: &Context) -> Result<Outcome> {
    if !is_pvirq(context) {
        return Ok(Outcome::Skip("it compares with /dev/kvm"));
    }
    let rows = bench(context, "neighbour", &["--pairs", "2"])?;
    ensure!(rows.len() == 2, "{} rows", rows.len());
    for row in &rows {
        for figure in [
            "loops_per_s",
            "wakes_per_s",
            "exits_per_wake",
            "cpu_us_per_wake",
        ] {
            ensure!(number(row, &format!("/{figure}"))? > 0.0, "{row}");
        }
    }
    ensure!(number(&rows[1], "/relative")? > 0.0, "{}", rows[1]);
    Ok(Outcome::Pass)
}
