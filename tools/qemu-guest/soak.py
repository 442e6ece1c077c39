#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs everything at once in a Linux guest for long, and looks for what goes wrong once in a while.

Runs in the test VM, with pvirq.ko loaded. While the guest has several loads at work at any time, each of them in turn,
the module comes and goes, with and without its cpuidle driver, CPUs go and come back, and the VMM is stopped for a
moment, all in random order. It fails if the guest's kernel reports something (see guest.py), a load fails or none of its
kind has been run, the guest is stuck or gone, its kernel needs more memory at the end than at the beginning, or the host
does not get its pages back. What the test VM's own kernel reports fails its run.
"""

import argparse
import os
import random
import signal
import sys
import time

from environment import add_options
from guest import Guest, GuestError, pinned

# All but those that need perf or an idle guest, and how often each does its operation.
LOADS = {"futex": 100, "pipe": 100, "messaging": 2, "membarrier": 100, "munmap": 50, "mprotect": 50, "perf-pipe": 50,
         "perf-messaging": 1, "ipi-self": 500, "ipi-single": 100, "ipi-broadcast": 100, "busy-ipi-single": 50,
         "busy-ipi-broadcast": 50, "cpu": 1000}

# How many loads are at work at a time.
AT_ONCE = 3

# What the guest's kernel may need more at the end, in KiB. It takes memory for modules in pieces of 2 MiB, and gives them
# back when it likes.
GROWTH = 4096

# How long the guest may take for a command, in seconds: loads of all CPUs are before it.
PATIENCE = 240


class Soak:
    """A guest, and what has been done to it."""

    def __init__(self, guest, vcpus):
        self.guest = guest
        self.vcpus = vcpus
        self.loaded = False
        self.done = {}

    def check(self, command):
        return self.guest.check(command, PATIENCE)

    def begin(self):
        """Puts the loads to work."""
        self.check("rm -f /stop /failed /ended /done")
        names = list(LOADS)
        for worker in range(AT_ONCE):
            first = worker * len(names) // AT_ONCE
            runs = "; ".join(f"run {name} {LOADS[name]}" for name in names[first:] + names[:first])
            # A load that fails says which it was, and ends all.
            self.check("(run() { [ -e /stop ] || { echo | /loads $1 $2 >/dev/null 2>>/failed && echo $1 >>/done; }"
                       f" || {{ echo $1 >>/failed; echo >/stop; }}; }};"
                       f" while [ ! -e /stop ]; do {runs}; done; echo >>/ended) &")

    def failures(self):
        """What loads have said when they failed."""
        return self.check("cat /failed")

    def end(self):
        """Stops the loads, and returns how often each has been run."""
        self.check(f"touch /stop /ended; for i in $(seq {PATIENCE // 2}); do"
                   f" [ $(wc -l </ended) != {AT_ONCE} ] || exit 0; sleep 1; done; ps | grep loads; exit 1")
        runs = dict.fromkeys(LOADS, 0)
        for line in self.check("sort /done | uniq -c"):
            count, name = line.split()
            runs[name] = int(count)
        return runs

    def load_or_unload(self):
        """Loads the module, or unloads it."""
        self.check("rmmod pvirq_guest" if self.loaded else f"insmod /pvirq_guest.ko idle={random.randrange(2)}")
        self.loaded = not self.loaded

    def plug(self):
        """Takes a CPU away and gives it back."""
        cpu = f"/sys/devices/system/cpu/cpu{random.randrange(1, self.vcpus)}/online"
        self.check(f"echo 0 >{cpu} && sleep 0.{random.randrange(10)} && echo 1 >{cpu}")

    def stop(self):
        """Stops the VMM for a moment."""
        os.kill(self.guest.pid, signal.SIGSTOP)
        time.sleep(random.uniform(0.01, 2))
        os.kill(self.guest.pid, signal.SIGCONT)
        self.check("true")

    def act(self):
        """Does one of these."""
        actions = [self.plug, self.stop]
        if self.guest.device != "/dev/kvm":
            actions += 2 * [self.load_or_unload]
        action = random.choice(actions)
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
        try:
            action()
        except GuestError as error:
            raise GuestError(f"{action.__name__}: {error}") from None

    def memory(self):
        """What the guest's kernel and its processes need, in KiB. No load runs."""
        if self.loaded:
            self.load_or_unload()
        lines = self.check("echo 3 >/proc/sys/vm/drop_caches; cat /proc/meminfo")
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        # Pages that CPUs keep for their next need are free, and are not in MemFree.
        kept = sum(4 * int(line.split()[1]) for line in self.check("grep -w count: /proc/zoneinfo"))
        free = sizes["MemFree"] + kept + sizes["Buffers"] + sizes["Cached"] + sizes["SReclaimable"]
        return sizes["MemTotal"] - free

    def run(self, seconds):
        """Everything at once, for so long. Returns how often each load has been run."""
        self.begin()
        end = time.monotonic() + seconds
        told = time.monotonic()
        while time.monotonic() < end:
            self.act()
            if time.monotonic() - told >= 30:
                told = time.monotonic()
                self.look()
                print(f"{max(0, end - told):.0f} s left: {self.done}", flush=True)
        runs = self.end()
        self.look()
        return runs

    def look(self):
        """Fails if something has gone wrong so far."""
        failures = self.failures()
        if failures:
            raise GuestError("a load has failed: " + "; ".join(failures))
        reports = self.guest.reports()
        if reports:
            raise GuestError("the guest's kernel reports:\n" + "\n".join(reports))


def soak(args):
    before = pinned()
    with Guest(args.device, args.kernel, args.initrd, args.placement, vcpus=args.vcpus, memory="512M",
               append="watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60") as guest:
        guest.boot()
        try:
            soak_guest(args, guest)
        except GuestError as error:
            print(f"soak: {error}\n{guest.autopsy()}", flush=True)
            raise
        guest.power_off()
    if pinned() != before:
        raise GuestError(f"{pinned() - before} pages stay pinned")


def soak_guest(args, guest):
    soak = Soak(guest, args.vcpus)
    soak.check("insmod /ipi_bench.ko; : >/failed")
    # What is made once is made now.
    soak.run(min(60, args.seconds))
    needed = soak.memory()
    runs = soak.run(args.seconds)
    growth = soak.memory() - needed
    print(f"done: {soak.done}, runs of loads: {runs}, the kernel needs {growth} KiB more", flush=True)
    if not all(runs.values()):
        raise GuestError("a load has not been run to its end")
    if growth > GROWTH:
        raise GuestError(f"the guest has lost {growth} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "initramfs-perf.cpio")
    parser.add_argument("--device", default="/dev/pvirq", help="without the module on /dev/kvm (default: %(default)s)")
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=random.randrange(2 ** 32), help="of what is random")
    args = parser.parse_args()

    print(f"seed {args.seed}", flush=True)
    random.seed(args.seed)
    try:
        soak(args)
    except (GuestError, OSError) as error:
        sys.exit(f"soak: {error}")


if __name__ == "__main__":
    main()
