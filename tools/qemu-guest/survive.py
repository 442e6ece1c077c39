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
from dataclasses import dataclass
from pathlib import Path

import judge
from environment import add_options, append_json, environment
from ground import ground, headline
from guest import GuestError
from progress import rates
from qmp import QmpError
from scenarios import SCENARIOS
from survivor import LOADS, SLICE, Survivor

# Failed rounds in a row after which a scenario is given up.
GIVE_UP = 3


@dataclass
class Context:
    """What a step may want to know of its round."""
    device: str
    number: int
    long: bool


class Scenario:
    """A scenario and its rounds."""

    def __init__(self, args, name, vcpus):
        self.args = args
        self.name = name
        self.vcpus = vcpus
        self.steps = SCENARIOS[name]
        self.rounds = {self.step_name(step): [] for step in self.steps}
        self.survivor = None
        self.boots = 0
        # The number of the first line that says how fast the guest is.
        self.baseline = 0

    def step_name(self, step):
        return step.name or self.name

    def boot(self):
        """Boots the guest, and has it work for as long as it takes to know how fast it is."""
        self.boots += 1
        start = time.monotonic()
        self.survivor = Survivor(self.args, self.args.device, self.vcpus)
        self.survivor.boot()
        print(f"{self.name}, {self.vcpus} vCPUs: booted on {self.args.device} in {time.monotonic() - start:.0f} s", flush=True)
        # The first runs of the loads find out how long they take.
        self.survivor.watch(self.args.baseline)
        self.baseline = len(self.survivor.progress.lines)
        self.survivor.watch(self.args.baseline)
        reports = self.survivor.reports()
        if reports:
            raise GuestError("the guest's kernel reports before the first step: " + "; ".join(reports))

    def end(self):
        if self.survivor:
            self.survivor.__exit__()
            self.survivor = None

    def step(self, step, context, rates_before):
        """Takes a step, and judges it."""
        survivor = self.survivor
        begun = survivor.resumed = survivor.progress.poll()
        start = time.monotonic()
        facts = step.run(survivor, context) or {}
        took = time.monotonic() - start
        survivor.watch(self.args.long if context.long else self.args.settle, survivor.resumed)
        first = survivor.progress.lines[survivor.resumed]
        reports = survivor.reports()
        lines = survivor.progress.lines[self.baseline:]
        result = judge.judge(step, lines, begun - self.baseline, survivor.resumed - self.baseline, rates_before, reports,
                             survivor.device == "/dev/pvirq", self.args.stalled)
        return {"seconds": round(took, 1), "device": survivor.device, "boot": self.boots} | result | facts | {
            "first_line_ms": round(1000 * (first.seen - start - took))}

    def round(self, number):
        """Takes all steps once. Returns whether all went well."""
        long = number == 0 and self.args.rounds > 1
        good = True
        rates_before = None
        for step in self.steps:
            name = self.step_name(step)
            try:
                if not self.survivor:
                    self.boot()
                rates_before = rates_before or rates(self.survivor.progress.lines[self.baseline:])
                result = self.step(step, Context(self.args.device, number, long), rates_before)
            except (GuestError, QmpError, OSError) as error:
                text = "".join(traceback.format_exception_only(error)).strip()
                result = {"failures": [text.split("; its last lines")[0]], "boot": self.boots, "tail": self.tail()}
            self.rounds[name].append(result | {"round": number})
            self.show(name, number, result)
            if result["failures"]:
                # The next round has a guest of its own, so that it says something by itself.
                self.end()
                good = False
                break
            self.baseline = self.survivor.resumed
        return good

    def tail(self):
        """What a guest that has failed says last."""
        if not self.survivor or not self.survivor.guest:
            return ""
        return self.survivor.guest.tail(30)

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
        try:
            for number in range(self.args.rounds):
                failed = 0 if self.round(number) else failed + 1
                if failed == GIVE_UP:
                    print(f"{self.name}: given up after {failed} failed rounds in a row", flush=True)
                    break
        finally:
            self.end()
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
    return result


def main():
    args = parser().parse_args()
    unknown = [name for name in args.scenarios if name not in SCENARIOS]
    if unknown:
        sys.exit(f"survive: there is no {unknown[0]}, only {', '.join(SCENARIOS)}")
    print(headline(ground()), flush=True)
    good = True
    for vcpus in args.vcpus or (2, 4):
        for name in args.scenarios or SCENARIOS:
            good = Scenario(args, name, vcpus).run() and good
    if not good:
        sys.exit("survive: not everything has been survived")


if __name__ == "__main__":
    main()
