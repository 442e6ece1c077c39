# SPDX-License-Identifier: GPL-2.0
"""A Linux guest at work that outlives its QEMU: it is saved, restored and migrated, and its loads are watched."""

import os
import re
import tempfile
import time
from pathlib import Path

from guest import REPORT, Guest, GuestError
from progress import Progress
from qmp import Qmp

LOADS = ("futex", "pipe", "membarrier", "mprotect", "ipi-single", "ipi-broadcast")

# How long a run of a load takes, in ms.
SLICE = 150

# A stall is reported within the 20 s of the guest's time that most rounds look for it.
ARGUMENTS = "watchdog_thresh=8 rcupdate.rcu_cpu_stall_timeout=15 memhp_default_state=online_movable"
HUNG_TASKS = "cd /proc/sys/kernel && echo 15 >hung_task_timeout_secs && echo 5 >hung_task_check_interval_secs"

MAX_VCPUS = 8

# Seconds within which QEMU has to save, load or move a guest.
MOVE = 300

# Seconds by this machine's clock without a line of the guest's after which the guest is gone. It writes one each second.
SILENCE = 90


class Survivor:
    """The guest. A context manager: it is gone at its end."""

    def __init__(self, args, device, vcpus):
        self._args = args
        self.vcpus = vcpus
        self.device = device
        self.progress = Progress()
        self.reported = []
        # The number of the first line after the guest was let run last.
        self.resumed = 0
        self._directory = tempfile.TemporaryDirectory()
        self._count = 0
        self.guest = self.qmp = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.qmp:
            self.qmp.close()
        if self.guest:
            self.guest.end()
        self.progress.close()
        self._directory.cleanup()

    def path(self, name):
        """A file that is gone with the guest."""
        return f"{self._directory.name}/{name}"

    def _qemu(self, device, options=()):
        """Starts a QEMU. Returns it, its monitor, and the file of the guest's progress."""
        self._count += 1
        monitor, progress = self.path(f"qmp.{self._count}"), self.path(f"progress.{self._count}")
        guest = Guest(device, self._args.kernel, self._args.initrd, self._args.placement, vcpus=self.vcpus,
                      memory="256M,slots=2,maxmem=1G", append=ARGUMENTS, maxcpus=MAX_VCPUS,
                      qemu=["-qmp", f"unix:{monitor},server=on,wait=off", "-serial", f"file:{progress}", *options])
        try:
            guest.prepare()
            return guest, Qmp(monitor), progress
        except BaseException:
            guest.end()
            raise

    def boot(self):
        """Boots the guest and puts it to work."""
        self.guest, self.qmp, progress = self._qemu(self.device)
        self.progress.follow(progress)
        self.guest.boot()
        self.work()

    def work(self):
        """Has a guest that has just been booted begin its loads, with pvirq_guest.ko if there is a host for it."""
        self.resumed = self.progress.poll()
        self.guest.check(HUNG_TASKS)
        self.guest.check("insmod /ipi_bench.ko")
        if self.device == "/dev/pvirq":
            self.guest.check("insmod /pvirq_guest.ko")
        self.guest.check(f"/keep-going {SLICE} {' '.join(LOADS)} </dev/null >/keep-going.log 2>&1 &")

    def incoming(self, device):
        """Another QEMU, which waits for the guest, as (QEMU, monitor, file of progress)."""
        return self._qemu(device, ["-incoming", "defer"])

    def move(self, device, other, partial=None):
        """Goes on with the guest in another QEMU, which has it already. Ends this one, if it is still there.

        `partial` is what the guest has written of a line, if it is not the guest as it was last.
        """
        self.resumed = self.progress.poll()
        self.reported += [line for line in self.guest.log if REPORT.search(line)]
        guest, qmp, progress = other
        self.qmp.close()
        self.guest.end()
        self.device, self.guest, self.qmp = device, guest, qmp
        self.progress.follow(progress, self.progress.partial if partial is None else partial)

    def rewind(self, partial):
        """Notes that the guest, which is stopped, is an earlier one now, which had written that much of a line."""
        self.progress.poll()
        self.progress.partial = partial

    def save(self, path, background=False):
        """Writes the guest to a file, from which another QEMU can load it. In the background the guest runs meanwhile."""
        self.qmp.capabilities(postcopy_ram=False, background_snapshot=background)
        self.qmp.execute("migrate-set-parameters", max_bandwidth=1 << 34)
        self.qmp.execute("migrate", uri=f"exec:cat >{path}")
        self.qmp.migrated(MOVE)

    def restore(self, device, path, partial=None):
        """Goes on with the guest as it is in a file, in another QEMU. It is as it was when it was saved."""
        other = self.incoming(device)
        try:
            other[1].execute("migrate-incoming", uri=f"exec:cat {path}")
            other[1].migrated(MOVE)
        except BaseException:
            other[0].end()
            raise
        self.move(device, other, partial)

    def stop(self):
        """Stops the guest. Returns what it has written of a line, to be there again when this moment is loaded."""
        self.qmp.execute("stop")
        self.progress.poll()
        return self.progress.partial

    def go_on(self):
        """Lets the guest run."""
        self.resumed = self.progress.poll()
        self.qmp.execute("cont")

    def status(self):
        """Whether the guest runs, as QEMU says it."""
        return self.qmp.execute("query-status")["status"]

    def line(self, limit=SILENCE):
        """Waits for a line of the guest's. Returns the number of lines so far."""
        count = len(self.progress.lines)
        end = time.monotonic() + limit
        while self.progress.poll() == count:
            self.alive()
            if time.monotonic() > end:
                raise GuestError(f"no progress for {limit} s; QEMU says '{self.status()}'")
            time.sleep(0.1)
        return len(self.progress.lines)

    def alive(self):
        """Fails if QEMU has ended."""
        if not Path(f"/proc/{self.guest.pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSDt":
            raise GuestError("QEMU has ended; its last lines:\n" + self.guest.tail())

    def watch(self, seconds, first=None):
        """Waits until so many seconds of the guest's time have gone, from the line with this number, or the next one."""
        if first is None:
            first = self.line() - 1
        while len(self.progress.lines) <= first or \
                self.progress.lines[-1].now < self.progress.lines[first].now + seconds:
            self.line()

    def reports(self):
        """What the guest's kernel has reported since this was last called."""
        found = self.guest.reports()
        self.guest.log.clear()
        found, self.reported = [*self.reported, *found], []
        return found

    def cpus(self):
        """The numbers of the CPUs that the guest's kernel knows, as (present, online)."""
        lines = self.guest.check("cd /sys/devices/system/cpu; cat present online")
        return tuple(parse_cpus(line) for line in lines if re.fullmatch(r"[\d,-]+", line))

    def until(self, what, condition, limit=120):
        """Waits until a condition holds."""
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise GuestError(f"{what}: not within {limit} s")
            time.sleep(0.1)

    def kill(self):
        """Kills QEMU without a word."""
        os.kill(self.guest.pid, 9)


def parse_cpus(text):
    """The numbers of a list as 0-2,4."""
    ranges = [part.split("-") for part in text.split(",")]
    return [cpu for part in ranges for cpu in range(int(part[0]), int(part[-1]) + 1)]
