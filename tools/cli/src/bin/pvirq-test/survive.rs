// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Guests that are saved and restored, and senders that are stopped in their posts.

use anyhow::{ensure, Context as _, Result};

use crate::{
    ktap::{test, Context, Test},
    tool::bench,
};

pub fn tests() -> Vec<Test> {
    vec![
        test("interrupts survive saves and restores", |context| {
            survive(context, if context.is_pvirq() { "pvirq" } else { "kvm" })
        }),
        test("interrupts survive that the device changes", |context| {
            context.needs_pvirq("it takes both devices")?;
            survive(context, "both")
        }),
        test(
            "a process that is killed in its post delays no other sender",
            |context| frozen(context, "process", 50),
        ),
        test(
            "a vCPU that is stopped in its post delays no other sender",
            |context| frozen(context, "vcpu", 25),
        ),
    ]
}

fn survive(context: &Context, devices: &str) -> Result<()> {
    const ROUNDS: u64 = 20;

    let results = bench(
        context,
        &format!("survive --devices {devices} --rounds {ROUNDS} --vcpus 2,4"),
    )?;
    let rows = results.rows();
    // Two mechanisms with 2 and 4 vCPUs, and where there is pvirq two ways to save what is posted.
    let expected = if devices == "kvm" { 4 } else { 8 };
    ensure!(rows.len() == expected, "{} rows", rows.len());
    let (mut paused, mut posting, mut registrations, mut elided) = (0, 0, 0, 0);
    for row in rows {
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
    Ok(())
}

fn frozen(context: &Context, case: &str, stops: u64) -> Result<()> {
    context.needs_pvirq("no guest can register here")?;
    let results = bench(context, &format!("frozen --case {case} --stops {stops}"))?;
    let rows = results.rows();
    for row in rows {
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
    Ok(())
}
