# SPDX-License-Identifier: GPL-2.0
"""The progress of a guest's loads, from the lines that keep-going.c writes."""

import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"@(\d+) (\d+) (\S+) (running|ended|failed) (\d+) (\d+) (\d+) (-?\d+) (-?\d+) (-?\d+) (-?\d+);")


@dataclass(frozen=True)
class Line:
    """A line, and when this process has seen it. All times are in seconds."""
    number: int
    now: float
    load: str
    state: str
    done: int
    time: float
    longest: float
    elided: int
    posted: int
    registered: int = -1
    registrations: int = -1
    seen: float = 0.0

    @classmethod
    def parse(cls, text, seen=0.0):
        """The line of this text, None if it is not whole."""
        found = LINE.fullmatch(text)
        if not found:
            return None
        number, now, load, state, done, took, longest, *counts = found.groups()
        return cls(int(number), int(now) / 1e9, load, state, int(done), int(took) / 1e9, int(longest) / 1e9,
                   *map(int, counts), seen)

    @property
    def began(self):
        """When this run of the load began."""
        return self.now - self.time


class Progress:
    """The lines of a guest so far, of all QEMUs that it has been in."""

    def __init__(self):
        self.lines = []
        self.partial = ""
        self._stream = None

    def follow(self, path, partial=""):
        """Goes on with the file of another QEMU, whose guest has written the beginning of a line already."""
        self.close()
        self.partial = partial
        # QEMU may not have made it yet.
        Path(path).touch()
        self._stream = open(path, encoding="ascii", errors="replace")

    def close(self):
        if self._stream:
            self._stream.close()

    def poll(self):
        """Reads the lines that have come. Returns the number of lines so far."""
        text = self.partial + self._stream.read()
        *whole, self.partial = text.split("\n")
        seen = time.monotonic()
        self.lines += filter(None, (Line.parse(line.rstrip("\r"), seen) for line in whole))
        return len(self.lines)


def runs(lines):
    """The last line of each run."""
    return [line for line, following in zip(lines, [*lines[1:], None])
            if line.state != "running" or following is None or following.load != line.load]


def rates(lines, since=0.0):
    """Operations per second by load: medians of the runs that began after a time of the guest."""
    by_load = {}
    for line in runs(lines):
        if line.time > 0 and line.done > 0 and line.began >= since:
            by_load.setdefault(line.load, []).append(line.done / line.time)
    return {load: statistics.median(values) for load, values in by_load.items()}


def longest(lines):
    """The longest operation, as (seconds, load)."""
    return max(((line.longest, line.load) for line in lines), default=(0.0, None))


def registered_after(lines, registrations):
    """The first of these lines that says that posting works, None if none does.

    Either the module has registered more than `registrations` times, or posts have been elided since the first line.
    """
    return next((line for line in lines if line.elided > lines[0].elided
                 or (line.registered == 1 and line.registrations > registrations)), None)
