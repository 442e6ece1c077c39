#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boots Linux guests on /dev/kvm and /dev/pvirq in pairs, and compares how many die and how long it takes.

Runs in the test VM, with pvirq.ko loaded. Each pair has a boot on either device, in random order. A boot is good if the
guest takes a command and powers off by itself.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from pathlib import Path

from ground import ground, headline
from guest import Guest, GuestError

DEVICES = ("/dev/kvm", "/dev/pvirq")


def boot(device, placement, args):
    """Boots a guest. Returns the seconds until it takes commands, and what was wrong, if something was."""
    start = time.monotonic()
    with Guest(device, args.kernel, args.initrd, vcpus=args.vcpus, cpus=",".join(map(str, placement))) as guest:
        try:
            while len(guest.threads()) < args.vcpus:
                time.sleep(0.01)
            guest.place(placement)
            guest.boot()
            seconds = time.monotonic() - start
            guest.check("true")
            guest.power_off()
        except (GuestError, OSError) as error:
            return None, str(error).split("; its last lines")[0]
    return seconds, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--placement", required=True, help="the CPU of each vCPU")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    placement = [int(cpu) for cpu in args.placement.split(",")]
    where = ground()
    print(headline(where), flush=True)

    boots = []
    for pair in range(args.rounds):
        for device in random.sample(DEVICES, 2):
            seconds, failure = boot(device, placement, args)
            boots.append({"pair": pair, "device": device, "seconds": seconds and round(seconds, 1), "failure": failure})
            print(f"{pair}: {device}: " + (failure or f"{seconds:.1f} s"), flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.json.read_text()) if args.json.exists() else []
    partial = args.json.with_suffix(".partial")
    result = {"schema": "pvirq-boots/1", "environment": {"kernel": platform.release(), **where, "vcpus": args.vcpus},
              "placement": placement, "boots": boots}
    partial.write_text(json.dumps(kept + [result], indent=1) + "\n")
    partial.rename(args.json)

    for device in DEVICES:
        of_device = [boot for boot in boots if boot["device"] == device]
        good = [boot["seconds"] for boot in of_device if boot["seconds"]]
        times = f"{min(good):.0f}, {statistics.median(good):.0f}, {max(good):.0f} s" if good else "-"
        print(f"{device}: {len(good)} of {len(of_device)} boots good; shortest, median, longest: {times}")
    if any(boot["failure"] and boot["device"] == "/dev/pvirq" for boot in boots) \
            and not any(boot["failure"] and boot["device"] == "/dev/kvm" for boot in boots):
        sys.exit("guests have died on /dev/pvirq only")


if __name__ == "__main__":
    main()
