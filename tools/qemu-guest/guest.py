# SPDX-License-Identifier: GPL-2.0
"""A stock Linux guest under an unmodified QEMU, in the test VM: boots it, places its vCPUs, and has it run commands.

The guest's init (with the kernel argument guest.commands) reads a command per line from its serial port and says
`@done STATUS` after each. Lines of the guest's kernel come on the same port.
"""

import ctypes
import os
import queue
import re
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from ground import ground

TRACEFS = Path("/sys/kernel/tracing")

# What a kernel says when an interrupt has been lost, or worse. Each of these fails a test.
REPORT = re.compile(
    r"soft lockup|hard LOCKUP|rcu: INFO|rcu_[a-z_]+ (self-)?detected|detected stalls|csd: |csd_lock|"
    r"BUG:|WARNING:|Oops|general protection|hung_task|blocked for more than|Kernel panic|Unexpected reschedule")


ARGUMENTS = "console=ttyS0 quiet panic=-1 oops=panic"

# What shortens a boot and changes nothing of what is tested, by ground: on Bochs the checks of the built-in
# certificates' signatures take some seconds.
FASTER = {"bochs": "initcall_blacklist=load_system_certificate_list"}

# An NMI from outside, to a guest that is stuck, is a panic that shows all CPUs and tasks.
STUCK = "unknown_nmi_panic panic_print=0x41"


PR_CAPBSET_DROP = 24
CAP_IPC_LOCK = 14


def drop_ipc_lock():
    """Takes the capability from what this process executes that no limit of locked memory holds for."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


class GuestError(Exception):
    """The guest has not done what it was told."""


class Guest:
    """A running guest. A context manager: the guest is gone at its end."""

    def __init__(self, device, kernel, initrd, placement, vcpus=2, memory="256M", append="", qemu=(), maxcpus=None,
                 limited=False):
        """`limited` says that RLIMIT_MEMLOCK holds for QEMU although it is root's."""
        self.device = device
        self.vcpus = vcpus
        self._placement = placement
        self.log = []
        self._directory = tempfile.TemporaryDirectory()
        self._monitor = f"{self._directory.name}/monitor"
        self._lines = queue.Queue()
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-name", "guest,debug-threads=on",
            "-machine", "q35", "-accel", f"kvm,device={device}", "-cpu", "host",
            "-smp", f"{vcpus},maxcpus={maxcpus or vcpus}", "-m", memory, "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", " ".join(filter(None, [ARGUMENTS, FASTER.get(ground()["ground"]), STUCK, "guest.commands", append])),
            "-serial", "stdio", "-monitor", f"unix:{self._monitor},server=on,wait=off", *qemu,
        ]
        command = ["taskset", "-c", ",".join(map(str, sorted(set(placement))))] + command
        self._qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, preexec_fn=drop_ipc_lock if limited else None)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Kills QEMU, if it is still there."""
        if self._qemu.poll() is None:
            self._qemu.kill()
        self._qemu.wait()
        self._directory.cleanup()

    @property
    def pid(self):
        """QEMU's process."""
        return self._qemu.pid

    def _read(self):
        for line in self._qemu.stdout:
            self._lines.put(line.decode(errors="replace").rstrip("\r\n"))
        self._lines.put(None)

    def line(self, limit):
        """The next line that the guest prints within `limit` seconds."""
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise GuestError(f"the guest has said nothing for {limit:.0f} s; its last lines:\n{self.tail()}") from None
        if line is None:
            raise GuestError(f"the guest is gone; its last lines:\n{self.tail()}")
        self.log.append(line)
        return line

    def expect(self, pattern, limit):
        """Reads lines until one matches, within `limit` seconds. Returns the match and the lines before it."""
        end = time.monotonic() + limit
        before = []
        while True:
            line = self.line(max(0.0, end - time.monotonic()))
            found = re.search(pattern, line)
            if found:
                return found, before
            before.append(line)

    def boot(self, limit=300):
        """Puts the vCPUs where they belong, and waits until the guest takes commands."""
        self.prepare(limit)
        self.expect(r"^guest: ready", limit)

    def prepare(self, limit=60):
        """Puts the vCPUs where they belong as soon as QEMU has made them."""
        end = time.monotonic() + limit
        while len(self.threads()) < self.vcpus:
            if self._qemu.poll() is not None:
                raise GuestError("QEMU has ended before the vCPUs began")
            if time.monotonic() > end:
                raise GuestError(f"QEMU has made no vCPUs within {limit} s")
            time.sleep(0.01)
        self.place()

    def send(self, line):
        """Gives the guest a line to read."""
        self._qemu.stdin.write(line.encode() + b"\n")
        self._qemu.stdin.flush()

    def run(self, command, limit=60):
        """Runs a command. Returns its status and what was printed meanwhile."""
        self.send(command)
        done, output = self.expect(r"^@done (\d+)$", limit)
        return int(done[1]), output

    def check(self, command, limit=60):
        """Runs a command that has to succeed, and returns what was printed meanwhile."""
        status, output = self.run(command, limit)
        if status:
            raise GuestError(f"'{command}' has failed with status {status}:\n" + "\n".join(output[-20:]))
        return output

    def tail(self, count=40):
        """The last lines."""
        return "\n".join(self.log[-count:])

    def threads(self):
        """The threads of the vCPUs, by their numbers."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                name = re.fullmatch(r"CPU (\d+)/KVM", (task / "comm").read_text().strip())
            except (FileNotFoundError, ProcessLookupError):
                # One of QEMU's other threads, which has just ended.
                continue
            if name:
                found[int(name[1])] = int(task.name)
        return found

    def shares_cpus(self):
        """Whether there are fewer CPUs for the vCPUs than vCPUs."""
        return len(set(self._placement)) < self.vcpus

    def place(self):
        """Puts each vCPU's thread on the CPU of the test VM that the placement has for it."""
        for number, thread in self.threads().items():
            os.sched_setaffinity(thread, {self._placement[number % len(self._placement)]})

    def reports(self):
        """The lines of the guest's kernel that say that something is wrong, of its log since this was last called."""
        # The whole log would take a minute on the serial port.
        found = self.check(f"dmesg -c | grep -E '{REPORT.pattern}' || true", 120)
        found = [line for line in found if REPORT.search(line)]
        return found + [line for line in self.log if line not in found and REPORT.search(line)]

    def autopsy(self, limit=60):
        """What QEMU knows of a guest that is stuck, and what its kernel says of its CPUs and tasks. It does not live on."""
        if self._qemu.poll() is not None:
            return "QEMU has ended"
        # In two places half a second apart, a vCPU runs.
        said = [self._monitor_says("info status"), self._places()]
        time.sleep(0.5)
        said += [self._places(), self._monitor_says("info lapic")]
        first = len(self.log)
        self._monitor_says("nmi")
        try:
            while True:
                self.line(limit)
        except GuestError:
            return "\n".join(said + self.log[first:])

    def _places(self):
        """Where the vCPUs are: what they execute, whether they sleep, and the state of their threads and CPU time so far."""
        registers = re.findall(r"^(?:CPU#|RIP=|CS =).*", self._monitor_says("info registers -a"), re.MULTILINE)
        tasks = [" ".join((Path(f"/proc/{self.pid}/task/{thread}") / name).read_text().rpartition(")")[2].strip()[:60]
                          for name in ("stat", "wchan", "schedstat")) for _, thread in sorted(self.threads().items())]
        return "\n".join(registers + tasks)

    def _monitor_says(self, command):
        """What QEMU's monitor answers."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(30)
            try:
                monitor.connect(self._monitor)
                answer = b""
                for line in (b"", command.encode() + b"\n"):
                    monitor.sendall(line)
                    answer = b""
                    while not answer.endswith(b"(qemu) "):
                        part = monitor.recv(1 << 16)
                        if not part:
                            return f"{command}: the monitor has ended"
                        answer += part
            except OSError as error:
                return f"{command}: {error}"
        # Between the line that it has echoed and its prompt.
        return "\n".join(answer.decode(errors="replace").replace("\r", "").split("\n")[1:-1])

    def wait(self, limit):
        """Waits until the guest has ended by itself. Returns QEMU's status."""
        try:
            return self._qemu.wait(limit)
        except subprocess.TimeoutExpired:
            raise GuestError(f"QEMU has not ended within {limit} s") from None

    def power_off(self, limit=60):
        """Ends the guest as its own init does."""
        self.send("@off")
        try:
            self._qemu.wait(limit)
        except subprocess.TimeoutExpired:
            raise GuestError(f"the guest does not power off; its last lines:\n{self.tail()}") from None


def pinned():
    """How many pages of processes the test VM's kernel holds; those of descriptors are among them."""
    Path("/proc/sys/vm/stat_refresh").read_text()
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


class Histogram:
    """A histogram of one of KVM's tracepoints."""

    def __init__(self, event, keys):
        self._event = event
        self._trigger = f"hist:keys={keys}:size=2048"
        (event / "trigger").write_text(self._trigger)

    def end(self):
        (self._event / "trigger").write_text("!" + self._trigger)

    def count(self):
        """How many events there were for each combination of the keys' values."""
        text = (self._event / "hist").read_text()
        dropped = re.search(r"Dropped: (\d+)", text)
        if dropped and int(dropped[1]):
            raise GuestError(f"the histogram has lost {dropped[1]} events")
        return {tuple(int(value, 0) for value in re.findall(r": +(\w+)", keys)): int(count)
                for keys, count in re.findall(r"\{ (.*?) \} hitcount: +(\d+)", text)}


class Exits:
    """Counts the exits of each vCPU by reason, in a trace instance of its own."""

    def __init__(self, guest):
        self._instance = TRACEFS / "instances" / f"guest.{guest.pid}"
        self._vcpus = {thread: number for number, thread in guest.threads().items()}
        self._reasons = REASONS[ground()["vendor"]]

    def __enter__(self):
        self._instance.mkdir()
        events = self._instance / "events/kvm"
        self._exits = Histogram(events / "kvm_exit", "common_pid,exit_reason")
        self._msrs = Histogram(events / "kvm_msr", "common_pid,write,ecx")
        self._hypercalls = Histogram(events / "kvm_hypercall", "common_pid,nr")
        return self

    def __exit__(self, *_):
        for histogram in (self._exits, self._msrs, self._hypercalls):
            histogram.end()
        self._instance.rmdir()

    def _by_vcpu(self, histogram):
        """What the histogram has of each of our vCPUs, as (vCPU, the other keys' values, count)."""
        for (thread, *values), count in histogram.count().items():
            if thread in self._vcpus:
                yield self._vcpus[thread], values, count

    def count(self):
        """The exits until now, by vCPU and reason's name. What is told apart is not among its kind any more."""
        counts = {}

        def add(vcpu, name, count):
            counts[vcpu, name] = counts.get((vcpu, name), 0) + count

        for vcpu, (reason,), count in self._by_vcpu(self._exits):
            # The upper half of VMX's has flags.
            add(vcpu, self._reasons.get(reason & 0xffff, "other"), count)
        for vcpu, (write, msr), count in self._by_vcpu(self._msrs):
            if (write, msr) == (1, X2APIC_ICR):
                add(vcpu, "icr", count)
                add(vcpu, "msr", -count)
        for vcpu, (number,), count in self._by_vcpu(self._hypercalls):
            if number in HYPERCALLS:
                add(vcpu, HYPERCALLS[number], count)
                add(vcpu, "hypercall", -count)
        return counts


X2APIC_ICR = 0x830

# The exit codes of AMD's SVM and Intel's VMX that are told apart, by the names that `pvirq bench` uses.
REASONS = {
    "amd": {0x60: "intr", 0x64: "window", 0x77: "pause", 0x78: "hlt", 0x7b: "io", 0x7c: "msr", 0x81: "hypercall",
            0x400: "npf", 0x401: "apic", 0x402: "apic"},
    "intel": {1: "intr", 7: "window", 12: "hlt", 18: "hypercall", 30: "io", 31: "msr", 32: "msr", 84: "msr", 85: "msr",
              40: "pause", 43: "apic", 44: "apic", 45: "apic", 56: "apic", 48: "npf", 49: "npf",
              52: "preemption-timer"},
}

# KVM_HC_SEND_IPI and KVM_HC_SCHED_YIELD.
HYPERCALLS = {10: "pv-ipi", 11: "pv-yield"}


def difference(after, before):
    """Exits by vCPU and reason's name between two counts."""
    exits = {key: count - before.get(key, 0) for key, count in after.items()}
    return {key: count for key, count in exits.items() if count}
