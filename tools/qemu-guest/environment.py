# SPDX-License-Identifier: GPL-2.0
"""What the programs of this directory share: the machine they run on, its kernel for guests, and result files."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

GUEST_FILES = Path("build/qemu-guest")

# Grounds on which vCPUs on different CPUs work as on hardware. TCG corrupts them, see Documentation/smp-guests.rst.
PARALLEL_GROUNDS = ("bochs", "kvm-nested", "hardware")


def ground():
    """What the test VM runs on: bochs, tcg, kvm-nested, or hardware."""
    named = re.search(r"\btestvm\.ground=(\S+)", Path("/proc/cmdline").read_text())
    if named:
        return named[1]
    cpuinfo = Path("/proc/cpuinfo").read_text()
    if re.search(r"^model name.*\bTCG\b", cpuinfo, re.MULTILINE):
        return "tcg"
    return "kvm-nested" if re.search(r"^flags.*\bhypervisor\b", cpuinfo, re.MULTILINE) else "hardware"


def vendor():
    """The CPU's vendor, as intel or amd."""
    found = re.search(r"^vendor_id\s*: (\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(found and found[1])


def parameter(module, name):
    """A module's parameter, or None."""
    path = Path(f"/sys/module/{module}/parameters/{name}")
    return path.read_text().strip() if path.exists() else None


def apicv():
    """Whether KVM uses the CPU's virtual APIC (APICv or AVIC); None if unknown."""
    value = parameter("kvm_intel", "enable_apicv") or parameter("kvm_amd", "avic")
    return {"Y": True, "1": True, "N": False, "0": False}.get(value)


def qemu_version():
    line = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return line.split()[3]


def environment():
    """The environment of results, as JSON has it."""
    return {"kernel": platform.release(), "qemu": qemu_version(), "ground": ground(), "vendor": vendor(),
            "apicv": apicv()}


def guest_kernel():
    """The guest's kernel. On Bochs the one that need not unpack itself."""
    return GUEST_FILES / ("vmlinux" if ground() == "bochs" else "vmlinuz")


def placement(text):
    """The CPU of each vCPU, by the text of an option: a list, or `auto`.

    That is every CPU in turn where the ground bears it, and otherwise the last one for all.
    """
    if text != "auto":
        return [int(cpu) for cpu in text.split(",")]
    cpus = sorted(os.sched_getaffinity(0))
    return cpus if ground() in PARALLEL_GROUNDS else cpus[-1:]


def add_options(parser, initrd):
    """The options that all programs have."""
    parser.add_argument("--kernel", type=Path, default=guest_kernel(), help="of the guest (default: %(default)s)")
    parser.add_argument("--initrd", type=Path, default=GUEST_FILES / initrd, help="of the guest (default: %(default)s)")
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
