# SPDX-License-Identifier: GPL-2.0
"""A guest at work, and steps that it is taken through and judged after."""

import time
from dataclasses import dataclass

import judge
from guest import GuestError
from progress import rates
from survivor import Survivor


@dataclass
class Context:
    """What a step may want to know of its round."""
    device: str
    long: bool


class Trial:
    """The guest. `args` has the options of survive.py. A context manager: the guest is gone at its end."""

    def __init__(self, args, device, vcpus):
        self.args = args
        self.survivor = Survivor(args, device, vcpus)
        # The number of the first line that says how fast the guest is.
        self.baseline = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.survivor.__exit__()

    def boot(self):
        """Boots the guest, and has it work for as long as it takes to know how fast it is."""
        self.survivor.boot()
        # The first runs of the loads find out how often each does its operation.
        self.survivor.watch(self.args.baseline)
        self.baseline = len(self.survivor.progress.lines)
        self.survivor.watch(self.args.baseline)
        reports = self.survivor.reports()
        if reports:
            raise GuestError("the guest's kernel reports before the first step: " + "; ".join(reports))

    def rates(self):
        """Operations per second by load since the last step."""
        return rates(self.survivor.progress.lines[self.baseline:])

    def tail(self):
        """What the guest has said last."""
        return self.survivor.guest.tail(30) if self.survivor.guest else ""

    def _run_all(self, loads, seconds):
        """Waits until each load has a run that is compared, so long at the most: on a busy machine runs are long."""
        lines, first = self.survivor.progress.lines, self.survivor.resumed
        start = lines[first].now + self.args.registered
        while lines[-1].now < lines[first].now + seconds and not loads <= set(rates(lines[first:], since=start)):
            self.survivor.line()

    def step(self, step, context, rates_before):
        """Takes a step, watches the guest, and judges it."""
        survivor = self.survivor
        begun = survivor.resumed = survivor.progress.poll()
        start = time.monotonic()
        facts = step.run(survivor, context) or {}
        took = time.monotonic() - start
        if survivor.resumed == begun:
            # The guest has worked all the time.
            survivor.resumed = survivor.progress.poll()
        seconds = self.args.long if context.long else self.args.settle
        survivor.watch(seconds, survivor.resumed)
        self._run_all(set(rates_before), 5 * seconds)
        reports = survivor.reports()
        lines = survivor.progress.lines[self.baseline:]
        first = survivor.progress.lines[survivor.resumed]
        result = judge.judge(step, lines, begun - self.baseline, survivor.resumed - self.baseline, rates_before, reports,
                             survivor.device == "/dev/pvirq", self.args)
        if result["failures"]:
            # Those around the step, and the last ones.
            result["lines"] = [str(line) for line in (lines[:begun - self.baseline][-3:] + lines[begun - self.baseline:][:40]
                                                      + lines[-10:])]
        self.baseline = survivor.resumed
        return {"seconds": round(took, 1), "device": survivor.device,
                "first_line_ms": round(1000 * (first.seen - start - took))} | result | facts
