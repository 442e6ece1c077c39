# SPDX-License-Identifier: GPL-2.0
"""What runs the CPUs of the test VM, for the record of results. The names are those of tools/bench/src/ground.rs."""

import re
from pathlib import Path

# The fields of `environment` in the results of `pvirq bench` that say where it was measured.
FIELDS = ("ground", "vendor", "apicv")

# KVM's module and its parameter for the CPU's virtual interrupt controller, by the CPU's flag.
VENDORS = {"svm": ("amd", "kvm_amd", "avic"), "vmx": ("intel", "kvm_intel", "enable_apicv")}


def parameter(module, name, root=Path("/")):
    """The value of a module's parameter, None if it has none."""
    path = root / f"sys/module/{module}/parameters/{name}"
    return path.read_text().strip() if path.exists() else None


def ground(root=Path("/")):
    """The ground, vendor and interrupt controller of this machine; None for what is not known."""
    flags = re.search(r"^flags\s*:(.*)$", (root / "proc/cpuinfo").read_text(), re.MULTILINE)
    flags = flags[1].split() if flags else []
    named = re.findall(r"(?:^|\s)testvm\.ground=(\S+)", (root / "proc/cmdline").read_text())
    if named:
        name = named[-1]
    else:
        # Which hypervisor it is takes CPUID. The `pvirq` command executes it.
        name = None if "hypervisor" in flags else "hardware"
    vendor, module, apicv = next((VENDORS[flag] for flag in flags if flag in VENDORS), (None, None, None))
    virtual_apic = {"Y": True, "1": True, "N": False, "0": False}.get(parameter(module, apicv, root))
    return dict(zip(FIELDS, (name, vendor, virtual_apic)))


def counts_instructions(environment):
    """Whether the time stamp counter counts instructions."""
    return environment["ground"] == "bochs"


def headline(environment):
    """The line above a table."""
    apic = {"amd": "AVIC", "intel": "APICv"}.get(environment["vendor"])
    used = {True: f" with {apic}", False: f" without {apic}"}.get(environment["apicv"], "")
    vendor = f", kvm_{environment['vendor']}{used}" if apic else ""
    return f"Ground: {environment['ground'] or 'unknown'}{vendor}."
