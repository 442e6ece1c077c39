#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Saves, restores, migrates, stops, resets and plugs a Linux guest at work, and looks whether it goes on as before.

Runs in the test VM, with pvirq.ko loaded. See Documentation/survive.rst. With --device /dev/kvm the same is done to a
guest without pvirq_guest.ko: what fails there is no fault of pvirq's.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

import judge
from environment import add_options, append_json, environment
from ground import ground, headline
from guest import GuestError
from qmp import QmpError
from scenarios import SCENARIOS
from survivor import LOADS, SLICE
from trial import Context, Trial

# Failed rounds in a row after which a scenario is given up.
GIVE_UP = 3


class Scenario:
    """A scenario and its rounds. A guest that has survived the one before goes on in it."""

    def __init__(self, args, name, vcpus, trial):
        self.args = args
        self.name = name
        self.vcpus = vcpus
        self.steps = SCENARIOS[name]
        self.rounds = {self.step_name(step): [] for step in self.steps}
        self.trial = trial
        self.boots = 0

    def step_name(self, step):
        return step.name or self.name

    def boot(self):
        """Boots a guest."""
        self.boots += 1
        start = time.monotonic()
        self.trial = Trial(self.args, self.args.device, self.vcpus)
        self.trial.boot()
        print(f"{self.name}, {self.vcpus} vCPUs: at work on {self.args.device} after {time.monotonic() - start:.0f} s",
              flush=True)

    def end(self):
        if self.trial:
            self.trial.__exit__()
            self.trial = None

    def round(self, number):
        """Takes all steps once. Returns whether all went well."""
        long = number == 0 and self.args.rounds > 1
        good = True
        rates_before = None
        for step in self.steps:
            name = self.step_name(step)
            try:
                if not self.trial:
                    self.boot()
                rates_before = rates_before or self.trial.rates()
                result = self.trial.step(step, Context(self.args.device, long), rates_before)
            except (GuestError, QmpError, OSError) as error:
                text = "".join(traceback.format_exception_only(error)).strip()
                result = {"failures": [text.split("; its last lines")[0]], "tail": self.trial.tail()}
            self.rounds[name].append(result | {"round": number, "boot": self.boots})
            self.show(name, number, result)
            if result["failures"]:
                # The next round has a guest of its own, so that it says something by itself.
                self.end()
                good = False
                break
        return good

    def show(self, name, number, result):
        if "longest_ms" in result:
            registered = result["registered_ms"]
            slowest = min(result["ratios"].items(), key=lambda item: item[1], default=("-", 0))
            print(f"{name}, {self.vcpus} vCPUs, round {number}: {result['seconds']} s, longest operation"
                  f" {result['longest_ms']} ms ({result['longest_load']}), settled {result['longest_settled_ms']} ms, before"
                  f" {result['longest_before_ms']} ms; elided again after {'-' if registered is None else registered} ms;"
                  f" slowest {slowest[0]} {slowest[1]:.2f}", flush=True)
        for failure in result["failures"]:
            print(f"    FAILED: {failure}", flush=True)
        if result.get("tail"):
            print("    " + result["tail"].replace("\n", "\n    "), flush=True)

    def run(self):
        """All rounds. Returns whether all is well."""
        failed = 0
        for number in range(self.args.rounds):
            failed = 0 if self.round(number) else failed + 1
            if failed == GIVE_UP:
                print(f"{self.name}: given up after {failed} failed rounds in a row", flush=True)
                break
        good = True
        for step in self.steps:
            name = self.step_name(step)
            total = judge.summary(step, self.rounds[name])
            good = good and judge.passed(total) and total["rounds"] == self.args.rounds
            show_summary(name, self.vcpus, total)
            append_json(self.args.json, {
                "schema": "pvirq-survive/1",
                "environment": environment() | {"vcpus": self.vcpus, "placement": self.args.placement},
                "device": self.args.device, "scenario": self.name, "step": name, "loads": LOADS, "slice_ms": SLICE,
                "settle_seconds": self.args.settle, "long_seconds": self.args.long, "boots": self.boots,
                "summary": total, "rounds": self.rounds[name],
            })
        return good


def show_summary(name, vcpus, total):
    print(f"{name}, {vcpus} vCPUs: {total['rounds'] - total['failed']} of {total['rounds']} rounds good", flush=True)
    for key, text in (("longest_ms", "longest operation"), ("longest_before_ms", "before"),
                      ("registered_ms", "elided again after")):
        if total.get(key):
            print(f"    {text}: median {total[key]['median']:.0f} ms, at most {total[key]['max']:.0f} ms")
    for load, ratio in total["ratios"].items():
        limits = " ({:.2f} – {:.2f})".format(*ratio["interval"]) if ratio["interval"] else ""
        print(f"    {load}: {ratio['median']:.3f}{limits} of the operations per second before; as fast:"
              f" {ratio['as_fast'] or 'not compared'}")


def parser():
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(result, "initramfs.cpio")
    result.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    result.add_argument("--device", default="/dev/pvirq", choices=("/dev/pvirq", "/dev/kvm"), help="without the module on"
                        " /dev/kvm (default: %(default)s)")
    result.add_argument("--json", type=Path, default=Path("build/results/survive.json"))
    result.add_argument("--vcpus", type=int, action="append", help="may be given more than once (default: 2 and 4)")
    result.add_argument("--rounds", type=int, default=20)
    result.add_argument("--settle", type=float, default=20, help="seconds of the guest's time that are looked at after each"
                        " step (default: %(default)s)")
    result.add_argument("--long", type=float, default=60, help="the same in the first of several rounds"
                        " (default: %(default)s)")
    result.add_argument("--baseline", type=float, default=10, help="seconds of the guest's time for its speed after a boot"
                        " (default: %(default)s)")
    result.add_argument("--stalled", type=float, default=2, help="seconds after which an operation that is not done counts"
                        " as lost (default: %(default)s)")
    result.add_argument("--registered", type=float, default=2, help="seconds of the guest's time within which posts have to"
                        " be elided again (default: %(default)s)")
    return result


def main():
    args = parser().parse_args()
    unknown = [name for name in args.scenarios if name not in SCENARIOS]
    if unknown:
        sys.exit(f"survive: there is no {unknown[0]}, only {', '.join(SCENARIOS)}")
    print(headline(ground()), flush=True)
    good = True
    for vcpus in args.vcpus or (2, 4):
        trial = None
        try:
            for name in args.scenarios or SCENARIOS:
                scenario = Scenario(args, name, vcpus, trial)
                good = scenario.run() and good
                trial = scenario.trial
        finally:
            if trial:
                trial.__exit__()
    if not good:
        sys.exit("survive: not everything has been survived")


if __name__ == "__main__":
    main()
