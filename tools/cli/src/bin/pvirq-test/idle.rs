// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Idle vCPUs, and what interrupts them.

use std::sync::atomic::Ordering::SeqCst;

use anyhow::{bail, ensure, Result};
use mini_guest::{IdleMode, Job, JobKind, Mechanism, Source};
use serde_json::Value;
use vmm::cpus::CpuList;

use crate::{
    jobs::{job, LIMIT},
    ktap::{test, Context, Test},
    posts::registered,
    tool::{bench, number},
};

pub fn tests() -> Vec<Test> {
    vec![
        test("idle: nothing is missed", arrivals),
        test("idle: what does not come is missed", missed),
        test("idle: interrupts are taken during polling", latency),
        test("idle: polling gives way to a neighbour", contention),
        test("idle: a neighbour's throughput is measured", neighbour),
    ]
}

/// Runs `pvirq bench idle`, and returns its rows.
fn rows(context: &Context, case: &str, options: &str) -> Result<Vec<Value>> {
    let results = bench(context, &format!("idle --case {case} {options}"))?;
    for row in results.rows() {
        ensure!(row["bench"] == "idle" && row["case"] == case, "{row}");
    }
    Ok(results.rows().to_vec())
}

fn arrivals(context: &Context) -> Result<()> {
    const PERIODS: f64 = 1500.0;

    context.needs_pvirq("no guest can register here")?;
    // On one CPU: in parallel, emulated CPUs fail.
    let cpu = CpuList::allowed()?.in_turn(2)[1].to_string();
    let mut ended = [[0.0; 3]; Source::COUNT];
    let mut posts = [0.0; 2];
    // What comes in which step is chance, and on a slow machine hardly any come in the first.
    for _ in 0..4 {
        let rows = rows(
            context,
            "arrivals",
            &format!("--cpus {cpu} --events {PERIODS}"),
        )?;
        let mut periods = 0.0;
        for row in &rows {
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
        let mut counts = ended.iter().flatten().chain(&posts);
        if counts.all(|&count| count != 0.0) {
            return Ok(());
        }
    }
    bail!("it has not tried much: {ended:?} by source and step, {posts:?} elided and kicked")
}

fn missed(context: &Context) -> Result<()> {
    context.needs_pvirq("no guest can register here")?;
    let mut machine = registered(context, 2)?;
    let patience = u64::from(machine.tsc_khz()) * 2000;
    let job = Job {
        mechanism: Mechanism::Pvirq,
        idle_mode: IdleMode::Idle,
        patience,
        ..job(JobKind::Arrivals)
    };
    // No eventfd is signalled.
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
    Ok(())
}

fn latency(context: &Context) -> Result<()> {
    context.needs_pvirq("it compares with /dev/kvm")?;
    for case in ["timer", "irqfd"] {
        let rows = rows(context, case, "--events 100")?;
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
    Ok(())
}

fn contention(context: &Context) -> Result<()> {
    context.needs_pvirq("no guest can register here")?;
    let rows = rows(context, "contention", "--pairs 3")?;
    ensure!(rows.len() == 3, "{} rows", rows.len());
    for row in &rows {
        // It ends at all: how soon, a busy machine cannot tell.
        ensure!(
            row["rounds"] == 3 && number(row, "/windows_zero_ms/p50")? < 75.0,
            "{row}"
        );
    }
    Ok(())
}

fn neighbour(context: &Context) -> Result<()> {
    context.needs_pvirq("it compares with /dev/kvm")?;
    let rows = rows(context, "neighbour", "--pairs 2")?;
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
    Ok(())
}
