#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boots Linux guests on /dev/kvm and /dev/pvirq by turns, and counts how many die and how long it takes.

Runs in the test VM, with pvirq.ko loaded. Each pair has a boot on either device, in random order. In every second boot
on /dev/pvirq the guest loads pvirq_guest.ko. A boot is good if the guest takes commands, runs a few short loads, its
kernel reports nothing, and it powers off by itself.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

from environment import add_options, append_json, environment
from ground import ground, headline
from guest import Guest, GuestError

DEVICES = ("/dev/kvm", "/dev/pvirq")

# Loads that have the CPUs interrupt each other at work and asleep, and how often each does its operation.
LOADS = {"futex": 50, "pipe": 50, "membarrier": 50, "mprotect": 50}


def boot(device, module, args):
    """Boots a guest. Returns the seconds until it takes commands, and what was wrong, if something was."""
    start = time.monotonic()
    with Guest(device, args.kernel, args.initrd, args.placement, vcpus=args.vcpus) as guest:
        try:
            guest.boot()
            seconds = time.monotonic() - start
            if module:
                guest.check("insmod /pvirq_guest.ko")
            for load, count in LOADS.items():
                guest.check(f"echo | /loads {load} {count}", 120)
            reports = guest.reports()
            if reports:
                return None, "the guest's kernel reports: " + reports[0]
            guest.power_off()
        except (GuestError, OSError) as error:
            return None, str(error).split("; its last lines")[0]
    return seconds, None


def name(device, module):
    return device + (" with pvirq_guest" if module else "")


def show(boots):
    """Prints how many boots were good, by device and module."""
    for device in DEVICES:
        for module in (False, True):
            chosen = [boot for boot in boots if (boot["device"], boot["module"]) == (device, module)]
            if not chosen:
                continue
            good = [boot["seconds"] for boot in chosen if not boot["failure"]]
            times = f"{min(good):.0f}, {statistics.median(good):.0f}, {max(good):.0f} s" if good else "-"
            print(f"{name(device, module)}: {len(good)} of {len(chosen)} boots good; shortest, median, longest: {times}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "initramfs.cpio")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--boots", "--rounds", type=int, default=30, dest="boots", metavar="BOOTS",
                        help="on each device (default: %(default)s)")
    args = parser.parse_args()

    print(headline(ground()), flush=True)
    boots = []
    for pair in range(args.boots):
        for device in random.sample(DEVICES, 2):
            module = device == "/dev/pvirq" and pair % 2 == 1
            seconds, failure = boot(device, module, args)
            boots.append({"pair": pair, "device": device, "module": module,
                          "seconds": None if seconds is None else round(seconds, 1), "failure": failure})
            print(f"{pair}: {name(device, module)}: " + (failure or f"{seconds:.1f} s"), flush=True)
    failed = {device: sum(bool(boot["failure"]) for boot in boots if boot["device"] == device) for device in DEVICES}
    append_json(args.json, {
        "schema": "pvirq-boots/2", "environment": environment() | {"vcpus": args.vcpus, "placement": args.placement},
        "good": {device: args.boots - failed[device] for device in DEVICES}, "failed": failed, "boots": boots,
    })
    show(boots)
    if any(failed.values()):
        sys.exit("a guest has died")


if __name__ == "__main__":
    main()
