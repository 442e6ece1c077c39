# SPDX-License-Identifier: GPL-2.0
"""Runs KVM's own selftests on /dev/kvm and, under the same name, on /dev/pvirq, and compares how they end.

Each program runs on the one device and then on the other, in the same virtual machine; the next one follows, whatever
happened. If the machine dies or hangs, that counts for the program that ran, and the rest goes on in another machine.
What passes on /dev/kvm only is run once more on both: what then is the same was chance, and is reported as such; what is
not is a failure of this run.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
BUILD = TOP / "build/conformance"
RESULTS = TOP / "build/results"
LOGS = RESULTS / "conformance"
MODULE = TOP / "build/module/pvirq.ko"

# Where the virtual machine sees the source tree.
INSIDE = Path("/pvirq")

# Seconds for one program on /dev/kvm; on /dev/pvirq it may take up to three times as long as it took there.
LIMIT = 60
# Seconds without any news after which the machine hangs, by ground. A program's limit is in the machine's time, of which a
# second may take Bochs 20.
SILENCE = {"qemu": 3 * LIMIT + 60, "bochs": 20 * (3 * LIMIT + 60)}
# Machines in a row that may end before they have run anything.
FALSE_STARTS = 3

# How many programs must be compared, so that a run with little in it does not pass.
ENOUGH = 80
ENOUGH_OF_SUBSET = {"qemu": 40, "bochs": 30}

DEVICES = ("kvm", "pvirq")

# Memory of the virtual machine by ground. Bochs has no more.
MEMORY = {"qemu": "4G", "bochs": "2G"}

# The file with the subset of a ground: other programs do something on an AMD CPU than on an Intel one.
SUBSET = {"qemu": "subset", "bochs": "subset-intel"}


def read_list(name):
    """Reads a file of lines; a line is a program and, maybe, more words about it."""
    lines = (HERE / name).read_text().splitlines()
    words = (line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#"))
    return {program: rest[0] if rest else "" for program, *rest in words}


def differs(results):
    """Whether a program does worse on /dev/pvirq than on /dev/kvm."""
    kvm, pvirq = (results[device][0] for device in DEVICES)
    return kvm in ("pass", "skip") and pvirq != kvm


class Machine:
    """A virtual machine that runs a list of programs, as far as it gets."""

    def __init__(self, testvm, ground, tests, devices, arguments):
        self._silence = SILENCE[ground]
        command = ["python3", INSIDE / "tools/conformance/guest.py"]
        command += ["--programs", INSIDE / "build/conformance/programs", "--logs", INSIDE / LOGS.relative_to(TOP)]
        command += ["--limit", str(LIMIT), "--devices", *devices]
        if "pvirq" in devices:
            command += ["--module", INSIDE / MODULE.relative_to(TOP)]
        command += ["--tests", *(":".join((test, *arguments.get(test, "").split())) for test in tests)]
        self._process = subprocess.Popen(
            testvm.split()
            + ["--toolchain", "--name", "conformance", "--ground", ground, "--memory", MEMORY[ground], "--timeout", "86400", "--"]
            + [str(word) for word in command],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def events(self):
        """Yields the words of each event, until the machine ends or says nothing for too long."""
        while True:
            try:
                line = self._lines.get(timeout=self._silence)
            except queue.Empty:
                print(f"conformance: no news for {self._silence} s: the machine hangs", file=sys.stderr)
                return
            if line is None:
                return
            if line.startswith("@"):
                yield line[1:].split()
            else:
                sys.stderr.write(line)

    def end(self):
        """Stops the machine if it runs still; returns whether it has ended well."""
        try:
            self._process.wait(10 if self._lines.empty() else 0)
        except subprocess.TimeoutExpired:
            # Its QEMU and its file servers are of the same session.
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait() == 0


class Comparison:
    """The results so far."""

    def __init__(self, arguments, options):
        self._testvm = arguments.testvm
        self._ground = arguments.ground
        self._devices = DEVICES if not arguments.baseline else DEVICES[:1]
        self._options = options
        self.sound = True

    def run(self, tests, report):
        """Runs programs, in as many machines as it takes; returns {test: {device: (status, seconds)}}."""
        results = {test: {} for test in tests}
        false_starts = 0
        while True:
            left = [test for test in tests if len(results[test]) < len(self._devices)]
            if not left:
                return results
            # What died with the machine is not run again, on that device.
            if partial := results[left[0]]:
                devices = [device for device in self._devices if device not in partial]
                left = left[:1]
            else:
                devices = self._devices
            current = self._boot(left, devices, results, report)
            if current:
                test, device = current
                print(f"conformance: the machine died in {test} on /dev/{device}", file=sys.stderr)
                self._keep_console(test, device)
                results[test][device] = ("fail", 0.0)
                if len(results[test]) == len(self._devices):
                    report(test, results[test])
            progress = current or any(len(results[test]) for test in left)
            false_starts = 0 if progress else false_starts + 1
            if false_starts == FALSE_STARTS:
                sys.exit(f"conformance: {FALSE_STARTS} machines in a row did not get as far as the first program")

    def _boot(self, tests, devices, results, report):
        """Runs programs in one machine; returns the program and device that it died in, if so."""
        machine = Machine(self._testvm, self._ground, tests, devices, self._options)
        current = None
        try:
            for event, test, device, *rest in machine.events():
                if event == "start":
                    current = (test, device)
                    progress(f"{test} on /dev/{device}")
                else:
                    current = None
                    results[test][device] = (rest[0], float(rest[1]))
                    if len(results[test]) == len(self._devices):
                        report(test, results[test])
        finally:
            good = machine.end()
        if not current and all(len(results[test]) == len(self._devices) for test in tests) and not good:
            # All has been run, and the kernel complained, or the module could not be removed.
            self.sound = False
        return current

    @staticmethod
    def _keep_console(test, device):
        console = TOP / "build/vm/conformance/console.log"
        if console.exists():
            shutil.copy(console, LOGS / f"{test}.{device}.console.log")


def progress(text):
    """Shows the progress, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}\r")
        sys.stderr.flush()


class Table:
    """The table on standard output, a line for each program."""

    ROW = "{:>9}  {:38}  {:8}{:8}{:>8}  {}"

    def __init__(self, total):
        self._total = total
        self._done = 0
        print(self.ROW.format("", "test", *DEVICES, "seconds", "").rstrip())

    def row(self, test, results):
        """Adds a line."""
        self._done += 1
        statuses = [results[device][0] if device in results else "-" for device in DEVICES]
        remark = "DIFFERS" if len(results) == len(DEVICES) and differs(results) else ""
        progress("")
        print(
            self.ROW.format(f"{self._done}/{self._total}", test, *statuses, f"{seconds(results):.1f}", remark).rstrip(),
            flush=True,
        )


def seconds(results):
    """The time that a program took on all devices."""
    return sum(result[1] for result in results.values())


def write_results(rows, excluded):
    """Writes the rows for other programs to read; no reader sees half of them."""
    partial = RESULTS / "conformance.json.partial"
    document = {
        "rows": rows,
        "excluded": [{"test": test, "reason": reason} for test, reason in excluded.items()],
    }
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.rename(RESULTS / "conformance.json")


def choose(arguments, programs):
    """Returns the programs to run, and those that are not run for a reason."""
    excluded = read_list("excluded")
    subset = read_list(SUBSET[arguments.ground])
    for name in (*excluded, *subset, *read_list("arguments")):
        if name not in programs:
            sys.exit(f"conformance: KVM has no selftest {name}: correct the lists in tools/conformance")
    if arguments.tests:
        return arguments.tests, {}
    if arguments.subset:
        return list(subset), {}
    return [program for program in programs if program not in excluded], excluded


def main():
    parser = argparse.ArgumentParser(prog="tools/conformance/run", description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--testvm", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--ground", choices=MEMORY, default="qemu", help="what the virtual machine runs on")
    parser.add_argument("--subset", action="store_true", help="only the programs of the ground's subset")
    parser.add_argument("--baseline", action="store_true", help="only /dev/kvm, to see what can run at all")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="only these, excluded or not")
    arguments = parser.parse_args()

    if not arguments.baseline and not MODULE.exists():
        sys.exit(f"conformance: no {MODULE}: run 'make module' first")
    programs = [line.split(":")[1] for line in (arguments.programs / "kselftest-list.txt").read_text().split()]
    tests, excluded = choose(arguments, sorted(programs))
    LOGS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rsync", "-a", "--delete", "--mkpath", f"{arguments.programs}/kvm/", BUILD / "programs/"], check=True)

    comparison = Comparison(arguments, read_list("arguments"))
    table = Table(len(tests))
    first = comparison.run(tests, table.row)
    if arguments.baseline:
        return 0 if comparison.sound else 1

    again = {}
    if suspects := [test for test in tests if differs(first[test])]:
        print(f"once more: {len(suspects)} that did worse on /dev/pvirq")
        again = comparison.run(suspects, Table(len(suspects)).row)

    rows = []
    for test in tests:
        row = {"test": test, **{device: first[test][device][0] for device in DEVICES}}
        row["seconds"] = round(seconds(first[test]), 1)
        if test in again:
            row["again"] = {device: again[test][device][0] for device in DEVICES}
        rows.append(row)
    write_results(rows, excluded)

    bugs = [test for test in again if differs(again[test])]
    flakes = [test for test in again if test not in bugs]
    for test, reason in excluded.items():
        print(f"not run: {test}: {reason}")
    for row in rows:
        if row["kvm"] != row["pvirq"] and row["test"] not in again:
            print(f"better: {row['test']}: {row['kvm']} on /dev/kvm, {row['pvirq']} on /dev/pvirq")
    for test in flakes:
        print(f"FLAKY: {test}: worse on /dev/pvirq once, the same when run again")
    for test in bugs:
        print(f"FAILED: {test}: worse on /dev/pvirq twice; see {LOGS.relative_to(TOP)}/{test}.*.log")
    same = [row["kvm"] for row in rows if row["kvm"] == row["pvirq"]]
    print(
        f"{len(rows)} compared: {same.count('pass')} pass on both, {same.count('skip')} skip on both, "
        f"{len(same) - same.count('pass') - same.count('skip')} fail on both, {len(rows) - len(same)} differ"
    )
    enough = len(arguments.tests) or (ENOUGH_OF_SUBSET[arguments.ground] if arguments.subset else ENOUGH)
    if len(rows) < enough:
        print(f"FAILED: fewer than {enough} were compared")
    if not comparison.sound:
        print("FAILED: the kernel reported an error, or pvirq could not be unloaded; see above")
    return 1 if bugs or len(rows) < enough or not comparison.sound else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
