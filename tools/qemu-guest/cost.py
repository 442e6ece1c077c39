# SPDX-License-Identifier: GPL-2.0
"""What a guest's vCPUs cost their host: CPU time, and how much of it was spent polling instead of sleeping."""

import re
from pathlib import Path

KVM_DEBUGFS = Path("/sys/kernel/debug/kvm")


class HostTime:
    """Times of a guest's vCPUs in nanoseconds, all of them together, since they began."""

    def __init__(self, guest):
        self._threads = list(guest.threads().values())
        self._process = Path(f"/proc/{guest.pid}")
        self._debugfs = next(KVM_DEBUGFS.glob(f"{guest.pid}-*"))

    def _statistic(self, name):
        """One of KVM's statistics of vCPUs."""
        return int((self._debugfs / name).read_text())

    def _pvirq_polled(self):
        """What pvirq has polled in idle calls."""
        polled = 0
        for file in (self._process / "fdinfo").iterdir():
            try:
                found = re.search(r"^pvirq-polled-ns:\s*(\d+)", file.read_text(), re.MULTILINE)
            except FileNotFoundError:
                continue
            polled += int(found[1]) if found else 0
        return polled

    def _running(self):
        """The CPU time, by the scheduler's clock, of which utime and stime are the parts."""
        return sum(int((self._process / f"task/{thread}/schedstat").read_text().split()[0]) for thread in self._threads)

    def read(self):
        polled = self._statistic("halt_poll_success_ns") + self._statistic("halt_poll_fail_ns") + self._pvirq_polled()
        return {"cpu": self._running(), "host_polled": polled, "slept": self._statistic("halt_wait_ns")}


def cost(before, after, idle, operations):
    """Nanoseconds per operation: CPU time of the vCPUs, and what of it the host and the guest's idle loop have polled.

    `idle` has the nanoseconds in each state of the guest's cpuidle driver. Linux's haltpoll has a state for polling. In
    pvirq's one state a CPU polls or is halted, and how long it was halted the host knows; the rest, an upper bound, has
    the way into a halt and out of it as well. A guest without a driver does not poll, unless it has idle=poll, of which
    it keeps no count.
    """
    spent = {name: after[name] - before[name] for name in after}
    if "pvirq" in idle:
        guest_polled = max(0, idle["pvirq"] - spent["slept"] - spent["host_polled"])
    else:
        guest_polled = idle.get("POLL", 0)
    return {"cpu": spent["cpu"] / operations, "host_polled": spent["host_polled"] / operations,
            "guest_polled": guest_polled / operations}
