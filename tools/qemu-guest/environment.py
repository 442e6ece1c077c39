# SPDX-License-Identifier: GPL-2.0
"""What the programs of this directory share: options, the guest's kernel, where vCPUs go, and result files."""

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path

from ground import ground

GUEST_FILES = Path("build/qemu-guest")

# Grounds on which vCPUs on different CPUs work as on hardware. TCG corrupts them, see Documentation/smp-guests.rst.
PARALLEL_GROUNDS = ("bochs", "kvm-nested", "hardware")


def qemu_version():
    line = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return line.split()[3]


def environment():
    """The environment of results, as JSON has it."""
    return {"kernel": platform.release(), "qemu": qemu_version()} | ground()


def guest_kernel():
    """The guest's kernel. On Bochs the one that need not unpack itself."""
    return GUEST_FILES / ("vmlinux" if ground()["ground"] == "bochs" else "vmlinuz")


def placement(text):
    """The CPU of each vCPU, by the text of an option: a list, or `auto`.

    That is every CPU in turn where the ground bears it, and otherwise the last one for all.
    """
    if text != "auto":
        return [int(cpu) for cpu in text.split(",")]
    cpus = sorted(os.sched_getaffinity(0))
    return cpus if ground()["ground"] in PARALLEL_GROUNDS else cpus[-1:]


def existing(text):
    """The type of an option that names a file, which is missed here and not in each of many boots."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no {path}; `make guest guest-perf` makes what is in {GUEST_FILES}")
    return path


def add_options(parser, initrd):
    """The options that all programs have."""
    # Defaults that are text are checked as what is given is.
    parser.add_argument("--kernel", type=existing, default=str(guest_kernel()), help="of the guest (default: %(default)s)")
    parser.add_argument("--initrd", type=existing, default=str(GUEST_FILES / initrd),
                        help="of the guest (default: %(default)s)")
    parser.add_argument("--placement", type=placement, default="auto", help="the CPU of each vCPU, as 0,1; `auto` is all"
                        " CPUs in turn, under TCG one (default: %(default)s)")


def write_json(path, value):
    """Writes a result file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.rename(path)


def append_json(path, value):
    """Adds to a result file, which has a list."""
    write_json(path, (json.loads(path.read_text()) if path.exists() else []) + [value])
