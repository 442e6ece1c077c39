#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boots a stock Linux guest under an unmodified QEMU on a KVM device, and shows that the device did the work.

Runs in the test VM. The guest is the test VM's own kernel with the initramfs that `build` makes. The count of KVM_RUN
calls that pvirq passed on is compared with the count of KVM's own tracepoint kvm_userspace_exit, which every KVM_RUN
passes: if QEMU had reached KVM by another way, the second would be larger. QEMU's threads are on the CPUs of the
placement, each where the scheduler puts it.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from environment import add_options, environment, write_json
from ground import ground, headline
from guest import ARGUMENTS, FASTER

PVIRQ_STATS = Path("/sys/kernel/debug/pvirq")
TRACEFS = Path("/sys/kernel/tracing")
VCPUS = 2


class RunCounter:
    """Counts kvm_userspace_exit in a trace instance of its own, whose buffers may overrun without losing count."""

    def __init__(self):
        self.instance = TRACEFS / "instances" / f"pvirq.{os.getpid()}"

    def __enter__(self):
        self.instance.mkdir()
        (self.instance / "events/kvm/kvm_userspace_exit/enable").write_text("1")
        return self

    def __exit__(self, *_):
        (self.instance / "events/kvm/kvm_userspace_exit/enable").write_text("0")
        self.instance.rmdir()

    def count(self):
        total = 0
        for stats in self.instance.glob("per_cpu/cpu*/stats"):
            fields = dict(re.findall(r"^(entries|overrun): (\d+)$", stats.read_text(), re.MULTILINE))
            total += int(fields["entries"]) + int(fields["overrun"])
        return total


def pvirq_runs():
    """KVM_RUN calls that the module has passed on since it was loaded."""
    return int((PVIRQ_STATS / "runs").read_text())


def qemu_command(args):
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35", "-accel", f"kvm,device={args.device}", "-cpu", "host",
        "-smp", str(VCPUS), "-m", "256M",
        "-kernel", str(args.kernel), "-initrd", str(args.initrd),
        "-append", " ".join(filter(None, [ARGUMENTS, FASTER.get(ground()["ground"])])),
        "-serial", "stdio",
    ]
    return ["taskset", "-c", ",".join(map(str, sorted(set(args.placement))))] + command


def boot(args):
    """Boots the guest once. Returns what it printed, how long it took, and whether it came to its end."""
    start = time.monotonic()
    qemu = subprocess.Popen(qemu_command(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        console, _ = qemu.communicate(timeout=args.limit)
    except subprocess.TimeoutExpired:
        qemu.kill()
        console, _ = qemu.communicate()
    return console, time.monotonic() - start, "guest: done" in console and qemu.returncode == 0


def interrupts(console):
    """The guest's interrupt counts per CPU, by the names that /proc/interrupts gives them."""
    found = re.findall(r"guest: interrupts (\w+): +([\d ]+\d)", console)
    return {name: [int(count) for count in counts.split()] for name, counts in found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="/dev/pvirq")
    add_options(parser, "initramfs.cpio")
    parser.add_argument("--limit", type=int, default=150, help="seconds for the boot (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()

    through_pvirq = args.device == "/dev/pvirq"
    if through_pvirq and not PVIRQ_STATS.is_dir():
        sys.exit(f"{PVIRQ_STATS} is missing: load pvirq.ko first")
    print(headline(ground()))
    print(f"{' '.join(qemu_command(args)[:12])} …", flush=True)
    with RunCounter() as counter:
        before = pvirq_runs() if through_pvirq else 0
        console, seconds, booted = boot(args)
        runs = {"kvm_userspace_exit": counter.count()}
        if through_pvirq:
            runs["pvirq"] = pvirq_runs() - before

    ipis = interrupts(console)
    complete = not through_pvirq or 0 < runs["pvirq"] == runs["kvm_userspace_exit"]
    result = {
        "schema": "pvirq-qemu/1",
        "environment": environment() | {"vcpus": VCPUS, "placement": args.placement},
        "device": args.device, "booted": booted, "seconds": round(seconds, 1),
        "kvm_run": runs, "every_run_through_pvirq": complete if through_pvirq else None, "interrupts": ipis,
    }
    write_json(args.json, result)

    if not booted:
        print(console[-4000:])
        sys.exit(f"the guest did not come to its end within {args.limit} s on {args.device}")
    kernel = re.search(r"guest: init (\S+) cpus=(\d+)", console)
    print(f"guest:      Linux {kernel[1]}, {kernel[2]} CPUs, booted and powered off in {seconds:.0f} s")
    for name, what in (("RES", "reschedule"), ("CAL", "call function"), ("TLB", "TLB shootdown")):
        if name in ipis:
            print(f"IPIs:       {what:<14}" + "".join(f"  CPU{cpu} {count:>6}" for cpu, count in enumerate(ipis[name])))
    print("KVM_RUN:    " + ", ".join(f"{count} counted by {counter}" for counter, count in runs.items()))
    if not complete:
        sys.exit("QEMU reached KVM by another way than pvirq: the two counts differ")
    if through_pvirq:
        print("            every KVM_RUN went through pvirq")
    if int(kernel[2]) != VCPUS or sum(ipis.get("RES", [0])) == 0:
        sys.exit("the guest's CPUs did not talk to each other")


if __name__ == "__main__":
    main()
