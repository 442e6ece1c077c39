#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Measures loads in a stock Linux guest under an unmodified QEMU, by how its idle CPUs wait and how it interrupts.

Runs in the test VM, with pvirq.ko loaded. The ways (modes) are:

  default    the guest halts, and KVM polls before the vCPU sleeps, as both do by default
  haltpoll   Linux's haltpoll driver in the guest (cpuidle_haltpoll.force=1)
  idle-poll  idle=poll in the guest: idle CPUs never leave it, which is the limit
  pvirq      pvirq_guest.ko in the guest

`default` and `pvirq` are measured in the same boot, first the one and then the other: the module's first idle call
switches KVM's polling of the VM off for good, so that nothing is the default any more after its unloading. The others
have boots of their own. Each set of boots, in random order, has some rounds of every mode; a round has every load once,
in random order. Pairs for ratios are the runs of the same round of a set. A shorter round comes before and is not kept.

On /dev/kvm there is no `pvirq`.
"""

import argparse
import random
import re
import sys
from pathlib import Path

from cost import HostTime, cost
from environment import add_options, append_json, environment
from ground import counts_instructions, ground, headline, parameter
from guest import Exits, Guest, GuestError, difference
from summary import show, summary

# Loads, and how often each does its operation: under TCG for about half a second, and elsewhere for about 50 ms.
LOADS = {
    "futex": (200, 4000), "pipe": (150, 4000), "messaging": (3, 50), "membarrier": (200, 4000), "munmap": (300, 4000),
    "mprotect": (1000, 4000), "perf-pipe": (150, 4000), "perf-messaging": (1, 10), "ipi-self": (2000, 20000),
    "ipi-single": (200, 4000), "ipi-broadcast": (200, 4000), "busy-ipi-single": (100, 4000),
    "busy-ipi-broadcast": (100, 4000), "cpu": (30000, 5000),
}

# Kernel arguments of the guest.
MODES = {"default": "", "haltpoll": "cpuidle_haltpoll.force=1", "idle-poll": "idle=poll", "pvirq": ""}

# Modes that share a boot, in this order.
BOOTS = (("default", "pvirq"), ("haltpoll",), ("idle-poll",))


class Results:
    """What the guests of all boots have shown."""

    def __init__(self, loads, modes):
        self.runs = {load: {mode: {} for mode in modes} for load in loads}
        self.sent = {load: {} for load in loads}
        self.idle = {load: {} for load in loads}
        self.reports, self.failures = [], []
        self.boots = 0


class Tables:
    """The module's tables in debugfs. Each look has what has been counted since the one before."""

    def __init__(self, guest):
        self._guest = guest
        self._before = {}

    def look(self, name):
        """A table's columns, summed over CPUs and, for `sent`, over kinds."""
        lines = [line.split() for line in self._guest.check(f"cat /sys/kernel/debug/pvirq_guest/{name}")]
        sums = {column: sum(int(line[index]) for line in lines[1:])
                for index, column in enumerate(lines[0]) if column not in ("cpu", "ipi")}
        before = self._before.get(name, {})
        self._before[name] = sums
        return {column: value - before.get(column, 0) for column, value in sums.items()}


def add(sums, more):
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


def run_load(guest, exits, host, load, operations):
    """Runs a load once. Returns operations per second, and cycles, exits by vCPU and reason, and costs per one."""
    guest.send(f"/loads {load} {operations}")
    guest.expect("^@begin", 120)
    exits_before, host_before = exits.count(), host.read()
    guest.send("")
    end, lines = guest.expect(r"^@end (\d+) (\d+) (\d+)", 240)
    host_after, exits_after = host.read(), exits.count()
    done, _ = guest.expect(r"^@done (\d+)", 120)
    if done[1] != "0":
        raise GuestError(f"{load} has failed with status {done[1]}")
    operations, nanoseconds, cycles = (int(value) for value in end.groups())
    idle = {name: int(microseconds) * 1000
            for name, microseconds in re.findall(r"^@idle (\S+) (\d+)$", "\n".join(lines), re.MULTILINE)}
    exits_per_operation = {}
    for (vcpu, reason), total in sorted(difference(exits_after, exits_before).items()):
        exits_per_operation.setdefault(str(vcpu), {})[reason] = total / operations
    run = {"operations_per_second": operations * 1e9 / nanoseconds, "cycles_per_operation": cycles / operations,
           "exits_per_operation": exits_per_operation,
           "ns_per_operation": cost(host_before, host_after, idle, operations)}
    if counts_instructions(ground()):
        run["instructions_per_operation"] = run["cycles_per_operation"]
    return run


def count(load, args):
    """How often a load does its operation."""
    return LOADS[load][ground()["ground"] != "qemu-tcg"] * args.longer


def run_mode(guest, mode, rounds, args, results):
    """Runs these rounds of a mode."""
    tables = Tables(guest)
    if mode == "pvirq":
        guest.check("insmod /pvirq_guest.ko")
    host = HostTime(guest)
    with Exits(guest) as exits:
        for load in args.loads:
            run_load(guest, exits, host, load, max(1, count(load, args) // 4))
        for number in rounds:
            for load in random.sample(args.loads, len(args.loads)):
                if mode == "pvirq":
                    tables.look("sent")
                    tables.look("idle")
                try:
                    run = run_load(guest, exits, host, load, count(load, args))
                except GuestError as error:
                    raise GuestError(f"{load}, {mode}: {error}") from None
                results.runs[load][mode][number] = run | {"boot": results.boots}
                if mode == "pvirq":
                    add(results.sent[load], tables.look("sent"))
                    add(results.idle[load], tables.look("idle"))
            print(f"{mode}: round {number + 1} of {args.rounds}", flush=True)


def run_boot(modes, rounds, args, results):
    """Boots a guest and runs these rounds of its modes, one mode after the other."""
    results.boots += 1
    patience = "watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60"
    window = f"haltpoll.guest_halt_poll_ns={args.window}" if args.window and "haltpoll" in modes else ""
    append = " ".join(filter(None, [patience, MODES[modes[0]], window]))
    with Guest(args.device, args.kernel, args.initrd, args.placement, vcpus=args.vcpus, memory="384M",
               append=append) as guest:
        try:
            guest.boot()
            guest.check("insmod /ipi_bench.ko")
            expected = {"haltpoll": "haltpoll"}.get(modes[0], "none")
            driver = guest.check("cat /sys/devices/system/cpu/cpuidle/current_driver")
            if driver != [expected]:
                raise GuestError(f"the cpuidle driver is {driver}, not {expected}")
            for mode in modes:
                run_mode(guest, mode, rounds, args, results)
            results.reports += guest.reports()
            guest.power_off()
        except GuestError as error:
            results.failures.append(str(error).split("; its last lines")[0])
            print(f"boot {results.boots}, {modes[0]}: {results.failures[-1]}\n{guest.tail(20)}", flush=True)


def measure(args):
    results = Results(args.loads, args.modes)
    boots = [chosen for modes in BOOTS if (chosen := [mode for mode in modes if mode in args.modes])]
    for first in range(0, args.rounds, args.per_boot):
        for modes in random.sample(boots, len(boots)):
            run_boot(modes, range(first, min(first + args.per_boot, args.rounds)), args, results)
    return results


def names(known):
    """The type of an option that is a list of these names."""
    def parse(text):
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]}, only {','.join(known)}")
        return chosen
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "initramfs-perf.cpio")
    parser.add_argument("--device", default="/dev/pvirq")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--per-boot", type=int, default=5, help="rounds in a boot (default: %(default)s)")
    parser.add_argument("--longer", type=int, default=1, help="multiply the operations of each run")
    parser.add_argument("--loads", type=names(LOADS), default=list(LOADS))
    parser.add_argument("--modes", type=names(MODES), default=list(MODES))
    parser.add_argument("--window", type=int, help="the longest window of haltpoll, in ns (default: Linux's)")
    args = parser.parse_args()
    if args.device == "/dev/kvm":
        args.modes = [mode for mode in args.modes if mode != "pvirq"]

    print(headline(ground()), flush=True)
    results = measure(args)
    rows = {load: summary(by_mode) for load, by_mode in results.runs.items()}
    append_json(args.json, {
        "schema": "pvirq-linux/2",
        "environment": environment() | {
            "vcpus": args.vcpus, "placement": args.placement, "device": args.device,
            "kvm_halt_poll_ns": parameter("kvm", "halt_poll_ns"), "haltpoll_window_ns": args.window,
            "guest_poll_ns": parameter("pvirq", "guest_poll_ns"), "host_poll_ns": parameter("pvirq", "host_poll_ns"),
        },
        "rows": rows, "sent": results.sent, "idle": results.idle, "reports": results.reports,
        "boots": results.boots, "failures": results.failures, "runs": results.runs,
    })

    print(f"{args.device}: {results.boots} boots, of which {len(results.failures)} have failed")
    show(rows, results.sent, results.idle)
    if results.reports:
        print("\n".join(results.reports))
        sys.exit("the guest's kernel reports something")
    if results.failures:
        sys.exit("a guest has failed")


if __name__ == "__main__":
    main()
