#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Measures what pvirq_guest.ko saves a stock Linux guest under an unmodified QEMU.

Runs in the test VM, with pvirq.ko loaded. In one boot of a guest it runs every load without and with the module, in
rounds: each round has the loads in random order, and of each a pair: a run without and one with the module, in random
order, one right after the other. Exits are counted by the host's tracepoint kvm_exit, while the load is at work and not
before or after.

On /dev/kvm it runs them without the module only, to see how many guests die.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ground import counts_instructions, ground, headline, parameter
from guest import Exits, Guest, GuestError, difference

# Loads, and how often each does its operation: about half a second on TCG.
LOADS = {
    "futex": 200, "pipe": 150, "messaging": 3, "membarrier": 200, "munmap": 300, "mprotect": 1000,
    "perf-pipe": 150, "perf-messaging": 1,
    "ipi-self": 2000, "ipi-single": 200, "ipi-broadcast": 200, "busy-ipi-single": 100, "busy-ipi-broadcast": 100,
    "cpu": 30000,
}

# An IPI costs these: the access that sends it, a multicast's hypercalls, and the sleep from which it wakes its target.
# Under TCG an operation takes long, and meets timers, whose exits are none of these.
IPI_REASONS = ("icr", "pv-ipi", "pv-yield", "hlt")

# Those of the IPI's sender, which is on vCPU 0 where there is only one.
SENDER_REASONS = ("icr", "pv-ipi", "pv-yield")


def run_load(guest, exits, load, args):
    """Runs a load once. Returns operations per second, cycles per operation, and exits per operation by vCPU and reason.
    Where the ground counts instructions, cycles are these, and have a field of that name as well.

    The vCPUs are where they are to be while the load is at work only: in parallel, Linux guests tend to crash on TCG.
    """
    guest.send(f"/loads {load} {LOADS[load] * args.longer}")
    guest.expect("^@begin", 120)
    guest.place(args.placement)
    before = exits.count()
    guest.send("")
    end, _ = guest.expect(r"^@end (\d+) (\d+) (\d+)", 240)
    after = exits.count()
    guest.place([args.home])
    done, _ = guest.expect(r"^@done (\d+)", 120)
    if done[1] != "0":
        raise GuestError(f"{load} has failed with status {done[1]}")
    operations, nanoseconds, cycles = (int(value) for value in end.groups())
    exits_per_operation = {}
    for (vcpu, reason), total in sorted(difference(after, before).items()):
        exits_per_operation.setdefault(str(vcpu), {})[reason] = total / operations
    run = {"operations_per_second": operations * 1e9 / nanoseconds, "cycles_per_operation": cycles / operations,
           "exits_per_operation": exits_per_operation}
    if args.instructions:
        run["instructions_per_operation"] = cycles / operations
    return run


def table(guest, name):
    """A table of the module's, summed over CPUs and, for `sent`, over kinds."""
    lines = [line.split() for line in guest.check(f"cat /sys/kernel/debug/pvirq_guest/{name}")]
    columns = {}
    for index, column in enumerate(lines[0]):
        if column not in ("cpu", "ipi"):
            columns[column] = sum(int(line[index]) for line in lines[1:])
    return columns


def add(sums, more):
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


class Results:
    """What the guests of all boots have shown."""

    def __init__(self, loads):
        self.pairs = {load: [] for load in loads}
        self.sent = {load: {} for load in loads}
        self.idle = {load: {} for load in loads}
        self.reports, self.failures = [], []
        self.boots = 0
        self.runs = 0

    def rounds(self):
        """How many pairs each load has at least."""
        return min(len(pairs) for pairs in self.pairs.values())


def run_pair(guest, exits, load, args, results):
    """Runs a load without and with the module."""
    pair = {}
    for module in random.sample((False, True), 2):
        if module and args.device == "/dev/kvm":
            continue
        side = "with" if module else "without"
        try:
            if module:
                guest.check("insmod /pvirq_guest.ko")
            pair[side] = run_load(guest, exits, load, args)
            if module:
                add(results.sent[load], table(guest, "sent"))
                add(results.idle[load], table(guest, "idle"))
                guest.check("rmmod pvirq_guest")
        except GuestError as error:
            raise GuestError(f"{load} {side} the module: {error}") from None
        results.runs += 1
    results.pairs[load].append(pair)


def measure(args):
    results = Results([load for load in LOADS if load in args.loads])
    end = time.monotonic() + args.seconds
    while results.rounds() < args.rounds and time.monotonic() < end and results.boots < args.boots:
        results.boots += 1
        with Guest(args.device, args.kernel, args.initrd, vcpus=args.vcpus, cpus=str(args.home), memory="384M",
                   append="watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60") as guest:
            try:
                guest.boot()
                guest.check("insmod /ipi_bench.ko")
                with Exits(guest) as exits:
                    while results.rounds() < args.rounds and time.monotonic() < end:
                        for load in random.sample(sorted(results.pairs), len(results.pairs)):
                            run_pair(guest, exits, load, args, results)
                        print(f"{results.rounds()} rounds of {args.rounds}", flush=True)
                results.reports += guest.reports()
                guest.power_off()
            except GuestError as error:
                results.failures.append(str(error).split("; its last lines")[0])
                print(f"boot {results.boots}: {results.failures[-1]}", flush=True)
    return results


def total(run, reasons=None, vcpus=None):
    """Exits per operation, for these reasons and at these vCPUs; for all if nothing is said."""
    return sum(count for vcpu, exits in run["exits_per_operation"].items() if vcpus is None or vcpu in vcpus
               for reason, count in exits.items() if reasons is None or reason in reasons)


def summary(kept):
    """Medians over the pairs of a load."""
    def medians(value):
        return {side: round(statistics.median(value(pair[side]) for pair in kept), 3) for side in ("without", "with")}

    def ratio(value):
        ratios = [pair["with"][value] / pair["without"][value] for pair in kept]
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return {name: round(number, 3) for name, number in zip(("lower", "median", "upper"), quartiles)}

    reasons = sorted({reason for pair in kept for side in pair.values() for exits in side["exits_per_operation"].values()
                      for reason in exits})
    row = {
        "pairs": len(kept),
        "operations_per_second": medians(lambda run: run["operations_per_second"]),
        "speed": ratio("operations_per_second"),
        "cycles": ratio("cycles_per_operation"),
        "exits_per_operation": {reason: medians(lambda run, reason=reason: total(run, {reason})) for reason in reasons},
        "sender_exits_per_operation": medians(lambda run: total(run, SENDER_REASONS, {"0"})),
        "ipi_exits_per_operation": medians(lambda run: total(run, IPI_REASONS)),
        "all_exits_per_operation": medians(total),
    }
    if all("instructions_per_operation" in run for pair in kept for run in pair.values()):
        row["instructions_per_operation"] = medians(lambda run: run["instructions_per_operation"])
    return row


def show(results, rows, unit):
    print(f"{'load':<18} {'pairs':>5} {'ops/s':>8} {'with':>8} {'speed, quartiles':>17} {unit:>6}"
          f"   {'sender':>6} {'with':>6}   {'IPI':>6} {'with':>6}   {'all':>6} {'with':>6}")
    for load, row in rows.items():
        speed, ratio = row["operations_per_second"], row["speed"]
        columns = "".join(f"   {row[name]['without']:>6.2f} {row[name]['with']:>6.2f}" for name in (
            "sender_exits_per_operation", "ipi_exits_per_operation", "all_exits_per_operation"))
        print(f"{load:<18} {row['pairs']:>5} {speed['without']:>8.0f} {speed['with']:>8.0f}"
              f"    {ratio['lower']:.2f} {ratio['median']:.2f} {ratio['upper']:.2f}"
              f" {row['cycles']['median']:>6.2f}{columns}")
    for load in rows:
        for what, counts in (("sent", results.sent[load]), ("idle", results.idle[load])):
            print(f"{load}: {what}: " + ", ".join(f"{name} {value}" for name, value in counts.items() if value))


def version():
    line = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return line.split()[3]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="/dev/pvirq")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--placement", default="0,1", help="the CPU of each vCPU (default: %(default)s)")
    parser.add_argument("--home", type=int, default=1, help="the CPU of all vCPUs when they are not measured")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--boots", type=int, default=1, help="boot anew if a guest dies, so many times at most")
    parser.add_argument("--parallel-may-fail", action="store_true", help="count guests that die, and go on")
    parser.add_argument("--longer", type=int, default=1, help="multiply the operations of each run")
    parser.add_argument("--seconds", type=int, default=3600, help="begin no round after so many seconds")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--polling", default="", help="how the host polls, for the record")
    args = parser.parse_args()
    args.placement = [int(cpu) for cpu in args.placement.split(",")]
    args.loads = args.loads.split(",")
    where = ground()
    args.instructions = counts_instructions(where)
    print(headline(where), flush=True)

    results = measure(args)
    rows = {}
    if args.device != "/dev/kvm":
        rows = {load: summary(kept) for load, kept in results.pairs.items() if kept}
    result = {
        "schema": "pvirq-linux/1",
        "environment": {
            "kernel": platform.release(), **where, "qemu": version(), "vcpus": args.vcpus, "placement": args.placement,
            "device": args.device, "kvm_halt_poll_ns": parameter("kvm", "halt_poll_ns"), "polling": args.polling,
        },
        "rows": rows, "sent": results.sent, "idle": results.idle, "reports": results.reports,
        "boots": results.boots, "load_runs": results.runs, "failures": results.failures, "runs": results.pairs,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.json.read_text()) if args.json.exists() else []
    partial = args.json.with_suffix(".partial")
    partial.write_text(json.dumps(kept + [result], indent=1) + "\n")
    partial.rename(args.json)

    print(f"{args.device}: {results.runs} runs in {results.boots} boots, of which {len(results.failures)} have failed")
    if rows:
        show(results, rows, "instr." if args.instructions else "cycles")
    if results.reports:
        print("\n".join(results.reports))
        sys.exit("the guest's kernel reports something")
    if results.failures and not args.parallel_may_fail:
        sys.exit("a guest has failed")
    if results.rounds() < args.rounds:
        sys.exit(f"only {results.rounds()} rounds of {args.rounds}")


if __name__ == "__main__":
    main()
