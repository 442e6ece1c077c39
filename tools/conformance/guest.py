# SPDX-License-Identifier: GPL-2.0
"""Runs KVM's selftests inside the test VM, on /dev/kvm and on /dev/pvirq, and says on standard output how each ended.

The lines are for compare.py: `@start TEST DEVICE` before a run, `@result TEST DEVICE STATUS SECONDS` after it. What a
program prints, and what the kernel says meanwhile, goes to TEST.DEVICE.log in the directory of logs.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KSFT_SKIP = 4
REFERENCES = Path("/sys/module/pvirq/refcnt")
VMS_CREATED = Path("/sys/kernel/debug/pvirq/vms_created")

FORCED_EMULATION = Path("/sys/module/kvm/parameters/force_emulation_prefix")

# Seconds in which the last file of a program that has ended must be gone.
RELEASE_LIMIT = 10

# A program sees /dev/pvirq under the name /dev/kvm in a mount namespace of its own.
WRAPPERS = {
    "kvm": [],
    "pvirq": ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/pvirq /dev/kvm && exec "$@"', "-"],
}


class KernelLog:
    """What the kernel printed since the last look."""

    def __init__(self):
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def read(self):
        lines = []
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                # The kernel's buffer went round before this look.
                lines.append("(messages lost)")
                continue
            lines.append(record.split(";", 1)[-1].splitlines()[0])


def released():
    """Whether no file of pvirq's is open any more, within a limit: exiting tasks may still be dropping theirs."""
    deadline = time.monotonic() + RELEASE_LIMIT
    while REFERENCES.read_text().strip() != "0":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run(command, directory, device, limit, log):
    """Runs one program on one device; returns its status."""
    child = subprocess.Popen(
        WRAPPERS[device] + command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        code = child.wait(limit)
    except subprocess.TimeoutExpired:
        code = None
    # The session may outlive its leader.
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    if code is None:
        return "timeout"
    log.write(f"exit status {code}\n")
    return {0: "pass", KSFT_SKIP: "skip"}.get(code, "fail")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True, help="seconds for a program on the first device")
    parser.add_argument("--devices", nargs="+", choices=WRAPPERS, required=True)
    parser.add_argument("--module", type=Path, help="pvirq.ko")
    parser.add_argument("--tests", nargs="+", required=True, help="NAME, or NAME:ARGUMENT:...")
    arguments = parser.parse_args()

    arguments.logs.mkdir(parents=True, exist_ok=True)
    if arguments.module:
        subprocess.run(["insmod", arguments.module], check=True)
    # Some programs need instructions that KVM emulates on demand.
    FORCED_EMULATION.write_text("1")
    kernel = KernelLog()
    for test, *words in (test.split(":") for test in arguments.tests):
        limit = arguments.limit
        for device in arguments.devices:
            print(f"@start {test} {device}", flush=True)
            start = time.monotonic()
            with open(arguments.logs / f"{test}.{device}.log", "w", encoding="utf-8", buffering=1) as log:
                status = run([f"./{test}", *words], arguments.programs, device, limit, log)
                seconds = time.monotonic() - start
                if device == "pvirq" and not released():
                    log.write(f"leak: {REFERENCES} is {REFERENCES.read_text().strip()} after the program's end\n")
                    status = "fail"
                for line in kernel.read():
                    log.write(f"kernel: {line}\n")
            print(f"@result {test} {device} {status} {seconds:.1f}", flush=True)
            # On a busy host the same program takes longer now and then; that is not the device's fault.
            limit = max(limit, 3 * seconds)
    arguments.logs.mkdir(parents=True, exist_ok=True)
    if arguments.module:
        created = int(VMS_CREATED.read_text())
        print(f"pvirq has made {created} VMs", flush=True)
        subprocess.run(["rmmod", "pvirq"], check=True)
        # Otherwise two runs on /dev/kvm have been compared.
        return 0 if created else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
