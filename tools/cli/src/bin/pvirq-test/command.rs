// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command, as users call it.

use std::{
    fs,
    io::Read,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Stdio},
};

use anyhow::{bail, ensure, Context as _, Result};
use nix::{
    sys::signal::{kill, Signal},
    unistd::Pid,
};
use pvirq::device::{KVM, PVIRQ};
use pvirq_bench::poll::Mode;
use serde_json::Value;

use crate::{
    ktap::{test, Context, Skip, Test},
    tool::{bench, check, check_all, number, pvirq, said},
};

pub fn tests() -> Vec<Test> {
    vec![
        test("pvirq run boots the guest that is built in", run),
        test("pvirq run says what is wrong", run_errors),
        test(
            "a user without permission for KVM is told so",
            not_permitted,
        ),
        test("pvirq run ends at Ctrl-C", interrupt),
        test("pvirq bench ipi writes its results", bench_ipi),
        test("pvirq bench refuses what it cannot measure", bench_errors),
        test(
            "pvirq bench poll writes its results, and pvirq plot draws them",
            bench_poll,
        ),
        test("pvirq plot says what is wrong", plot_errors),
        test("pvirq doctor judges the machine", doctor),
        test("no more exits per IPI than on /dev/kvm", same_exits),
    ]
}

fn run(context: &Context) -> Result<()> {
    let output = pvirq(context, "run --device DEVICE --vcpus 3")?;
    check(&output, 0, "2 interrupts sent, none lost")
}

fn run_errors(context: &Context) -> Result<()> {
    check_all(
        context,
        &[
            ("run --device /dev/none", 1, "no such device: /dev/none"),
            (
                "run --device /dev/null",
                1,
                "/dev/null does not speak the KVM API",
            ),
            (
                "run --device DEVICE /nonexistent",
                1,
                "cannot read /nonexistent",
            ),
            (
                "run --device DEVICE --cpus 1000",
                1,
                "cannot stay on CPU 1000",
            ),
            ("run --device DEVICE --vcpus 65", 2, "65 is not in 1..=64"),
            ("run --device DEVICE --vcpus 0", 2, "0 is not in 1..=64"),
            ("run --device DEVICE --memory 1", 2, "1 is not in 2..="),
        ],
    )
}

fn not_permitted(context: &Context) -> Result<()> {
    const UNPRIVILEGED: u32 = 65534;
    let everybody = fs::Permissions::from_mode(0o755);
    if fs::metadata(KVM)?.permissions().mode() & 0o006 != 0 {
        bail!(Skip("all users may use KVM here"));
    }
    // Where it was built others may have no access at all.
    let directory = tempfile::tempdir()?;
    let command = directory.path().join("pvirq");
    fs::copy(&context.command, &command)?;
    fs::set_permissions(&command, everybody.clone())?;
    fs::set_permissions(directory.path(), everybody)?;
    let output = Command::new(&command)
        .args(["run", "--device"])
        .arg(&context.device)
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED)
        .output()?;
    check(
        &output,
        1,
        &format!("not permitted to open {}", context.device.display()),
    )?;
    Ok(())
}

fn interrupt(context: &Context) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("image");
    // mov $'x', %al; mov $0x3f8, %dx; out %al, %dx; 1: jmp 1b. The newline makes the console speak.
    fs::write(
        &image,
        [0xb0, b'\n', 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfe],
    )?;
    let mut child = Command::new(&context.command)
        .args(["run", "--vcpus", "4", "--device"])
        .arg(&context.device)
        .arg(&image)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut byte = [0];
    child
        .stdout
        .take()
        .context("no pipe")?
        .read_exact(&mut byte)?;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT)?;
    let status = child.wait()?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    Ok(())
}

fn bench_ipi(context: &Context) -> Result<()> {
    let results = bench(
        context,
        &format!("ipi --device DEVICE --device {KVM} --vcpus 2 --events 40"),
    )?;
    let (output, report) = (&results.output, &results.report);
    check(output, 0, "pv-ipi")?;
    check(output, 0, " events: 0 lost, 0 came again.")?;
    let environment = &report["environment"];
    let ground = environment["ground"].as_str().context("no ground")?;
    let vendor = environment["vendor"].as_str().context("no vendor")?;
    ensure!(["intel", "amd"].contains(&vendor), "{environment}");
    ensure!(environment["apicv"].is_boolean(), "{environment}");
    check(output, 0, &format!("Ground: {ground}, kvm_{vendor} with"))?;
    let rows = results.rows();
    // Unicast and broadcast; busy, halted, halted without polling, polling in the guest, in the host, and for broadcasts
    // mixed. The hypercall is only measured where it makes a difference, and pvirq only on its own device.
    let (x2apic, pv_ipi, pvirq) = (5 + 6, 3 + 3, 5 + 6);
    let posting = usize::from(context.is_pvirq());
    let expected = 2 * (x2apic + pv_ipi) + posting * pvirq;
    ensure!(rows.len() == expected, "{} rows", rows.len());
    for row in rows {
        ensure!(row["events"] == 40 && row["delivered"] == 40, "{row}");
        ensure!(row["lost"] == 0 && row["duplicates"] == 0, "{row}");
        let instructions = match ground {
            "bochs" => &row["cycles_per_event"]["p50"],
            _ => &Value::Null,
        };
        ensure!(row["instructions_per_event"] == *instructions, "{row}");
        let sender = row["exits_by_reason"]["sender"]
            .as_object()
            .context("no reasons")?;
        let sum: f64 = sender.values().filter_map(Value::as_f64).sum();
        let total = row["exits_per_event"]["sender"]
            .as_f64()
            .context("no exits")?;
        ensure!((sum - total).abs() < 1e-9, "{row}");
        if row["mechanism"] == "pvirq" {
            let posts = ["coalesced", "elided", "kicked"].map(|key| row["posts"][key].as_u64());
            let posts: Option<u64> = posts.into_iter().sum();
            ensure!(posts == Some(40) && row["device"] == PVIRQ, "{row}");
        } else {
            ensure!(total >= 1.0 && row["posts"].is_null(), "{row}");
        }
    }
    Ok(())
}

fn bench_errors(context: &Context) -> Result<()> {
    check_all(
        context,
        &[
            (
                "bench ipi --device /dev/kvm --mechanism pvirq",
                1,
                "no guest finds pvirq",
            ),
            (
                "bench ipi --target preempted --vcpus 2",
                1,
                "no case is like that",
            ),
            ("bench ipi --device /dev/none", 1, "no such device"),
            ("bench ipi --vcpus 1", 2, "1 is not in 2..=64"),
            ("bench ipi --events 0", 2, "0 is not in 1.."),
            ("bench ipi --max-difference x", 2, "not a percentage"),
            (
                "bench exit --device DEVICE --events 10 --json /nonexistent/exit.json",
                1,
                "cannot write /nonexistent/exit.json",
            ),
        ],
    )
}

fn bench_poll(context: &Context) -> Result<()> {
    context.needs_pvirq("it takes both devices")?;
    let results = bench(
        context,
        "poll --arrivals fixed --interval 50,2000 --time 40 --warm-up 20 --guest-poll-ns 10000000",
    )?;
    check(&results.output, 0, "pvirq-governor")?;
    let rows = results.rows();
    // All modes at two intervals.
    ensure!(rows.len() == 2 * Mode::ALL.len(), "{} rows", rows.len());
    for row in rows {
        ensure!(row["bench"] == "poll", "{row}");
        ensure!(
            row["events"] == row["delivered"] && row["duplicates"] == 0,
            "{row}"
        );
        let number = |name: &str| number(row, name);
        ensure!(number("/events")? >= 40.0, "{row}");
        ensure!(
            number("/achieved_interval_ns")? >= number("/interval_ns")?,
            "{row}"
        );
        ensure!(
            number("/latency_ns/p99")? >= number("/latency_ns/p50")?,
            "{row}"
        );
        let cpu = number("/cpu_per_second/guest")? + number("/cpu_per_second/host")?;
        ensure!((0.0..=1.01).contains(&cpu) && cpu > 0.0, "{row}");
        let [guest, host, halt] = ["guest", "host", "halt"]
            .map(|place| number(&format!("/periods_per_event/{place}")).unwrap_or(f64::NAN));
        let pvirq = row["mechanism"] == "pvirq";
        ensure!(row["poll"].is_null() != pvirq, "{row}");
        match row["mode"].as_str().context("no mode")? {
            "halt" => ensure!(
                (guest, host, number("/saved_per_event")?) == (0.0, 0.0, 0.0),
                "{row}"
            ),
            "kvm-halt-poll" => ensure!((guest, host) == (0.0, 0.0), "{row}"),
            "guest-spin" | "guest-governor" => ensure!(host == 0.0, "{row}"),
            // However busy the machine is, some wake-ups find the guest in its window of 10 ms.
            "pvirq-fixed" => ensure!(guest > 0.05, "{row}"),
            _ => {}
        }
        ensure!(
            guest + host + halt > 0.0 || row["mechanism"] == "x2apic",
            "{row}"
        );
    }

    let path = results.path();
    let json = path.display();
    check(&pvirq(context, &format!("plot {json}"))?, 0, "results.png")?;
    let svg = fs::read_to_string(path.with_extension("svg"))?;
    ensure!(
        svg.contains("every 50 µs") && svg.contains("every 2 ms"),
        "{svg}"
    );
    ensure!(
        fs::read(path.with_extension("png"))?.starts_with(b"\x89PNG"),
        "it is no PNG file"
    );
    // Results of the same machine are added.
    let line = format!(
        "bench poll --arrivals bursty --interval 100 --mode halt --time 10 --json {json} --append"
    );
    check(&pvirq(context, &line)?, 0, "bursty")?;
    let report: Value = serde_json::from_slice(&fs::read(&path)?)?;
    ensure!(
        report["rows"].as_array().map(Vec::len) == Some(2 * Mode::ALL.len() + 1),
        "{report}"
    );
    Ok(())
}

fn plot_errors(context: &Context) -> Result<()> {
    check_all(
        context,
        &[
            ("plot /nonexistent", 1, "cannot read /nonexistent"),
            ("plot /proc/self/status", 1, "no results of pvirq bench"),
            ("plot", 2, "JSON"),
            ("bench poll --mode none", 2, "there are halt, kvm-halt-poll"),
            ("bench poll --interval 0", 2, "from 1 to 10000"),
            (
                "bench poll --guest-poll-ns 10000001",
                2,
                "10000001 is not in",
            ),
        ],
    )
}

fn doctor(context: &Context) -> Result<()> {
    let output = pvirq(context, "doctor")?;
    match std::path::Path::new(PVIRQ).exists() {
        true => check(&output, 0, "pvirq can be used.")?,
        false => check(&output, 1, "insmod pvirq.ko")?,
    }
    for text in ["/dev/kvm    usable", "ground      "] {
        check(&output, output.status.code().unwrap_or(-1), text)?;
    }
    Ok(())
}

fn same_exits(context: &Context) -> Result<()> {
    context.needs_pvirq("it is /dev/kvm")?;
    let line = format!(
        "bench ipi --device {KVM} --device DEVICE --vcpus 2 --case unicast --events 400 --eoi x2apic \
         --max-difference 2"
    );
    // On a busy machine interrupts of its own come in between, and a target is not at rest yet. What is too much each time,
    // however often it is tried, is ours.
    let mut all = String::new();
    for _ in 0..10 {
        let output = pvirq(context, &line)?;
        if output.status.success() {
            return Ok(());
        }
        all += &said(&output);
    }
    bail!("{all}")
}
