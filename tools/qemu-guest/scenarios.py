# SPDX-License-Identifier: GPL-2.0
"""What survive.py does to a guest at work.

A scenario is a list of steps, each of which is judged by itself. A step does something to the guest and returns what it
has to say of it. When it returns, the guest runs.
"""

import time
from dataclasses import dataclass
from typing import Callable

from guest import GuestError
from survivor import MOVE

KVM = "/dev/kvm"


@dataclass(frozen=True)
class Step:
    """A step. Its name is that of the scenario if it has none of its own."""
    run: Callable
    name: str = ""
    # Whether operations have to be as fast afterwards as before the round.
    compares: bool = True
    # Whether the guest is an earlier one afterwards, by its own clock.
    goes_back: bool = False


def migrate_file(survivor, device):
    """Stops the guest, writes it to a file, and goes on with it in a new QEMU."""
    path = survivor.path("image")
    survivor.stop()
    survivor.save(path)
    survivor.qmp.execute("quit")
    survivor.guest.wait(60)
    survivor.restore(device, path)
    survivor.go_on()


def to_file(survivor, context):
    migrate_file(survivor, survivor.device)


def to_kvm(survivor, context):
    migrate_file(survivor, KVM)


def from_kvm(survivor, context):
    migrate_file(survivor, context.device)


def snapshot(survivor, context):
    """Saves and loads the guest in one QEMU, by savevm and loadvm, with two seconds of work between them."""
    qmp = survivor.qmp
    if not any(node.get("node-name") == "state" for node in qmp.execute("query-named-block-nodes")):
        path, size = survivor.path("state.qcow2"), 1 << 30
        qmp.job("blockdev-create", MOVE, options={"driver": "file", "filename": path, "size": 0})
        qmp.execute("blockdev-add", driver="file", node_name="state-file", filename=path)
        qmp.job("blockdev-create", MOVE, options={"driver": "qcow2", "file": "state-file", "size": size})
        qmp.execute("blockdev-add", driver="qcow2", node_name="state", file="state-file")
    partial = survivor.stop()
    qmp.job("snapshot-save", MOVE, tag="survive", vmstate="state", devices=["state"])
    survivor.go_on()
    survivor.watch(2)
    survivor.stop()
    qmp.job("snapshot-load", MOVE, tag="survive", vmstate="state", devices=["state"])
    survivor.rewind(partial)
    qmp.job("snapshot-delete", MOVE, tag="survive", devices=["state"])
    survivor.go_on()


def live(survivor, postcopy):
    """Migrates the guest at work to another QEMU over a socket."""
    uri = f"unix:{survivor.path('socket')}"
    other = survivor.incoming(survivor.device)
    try:
        for qmp in (survivor.qmp, other[1]):
            qmp.capabilities(postcopy_ram=postcopy, background_snapshot=False)
            qmp.execute("migrate-set-parameters", max_bandwidth=1 << 34, downtime_limit=2000)
        other[1].execute("migrate-incoming", uri=uri)
        survivor.qmp.execute("migrate", uri=uri)
        if postcopy:
            survivor.until("post-copy", lambda: survivor.qmp.execute("query-migrate").get("status") == "active")
            survivor.qmp.execute("migrate-start-postcopy")
        migration = survivor.qmp.migrated(MOVE)
        other[1].migrated(MOVE)
    except BaseException:
        other[0].end()
        raise
    survivor.move(survivor.device, other)
    if survivor.status() != "running":
        raise GuestError(f"the guest is {survivor.status()} after its migration")
    return {"downtime_ms": migration.get("downtime"), "total_ms": migration.get("total-time"),
            "postcopy_requests": migration["ram"].get("postcopy-requests"), "passes": migration["ram"]["dirty-sync-count"]}


def precopy(survivor, context):
    return live(survivor, False)


def postcopy(survivor, context):
    return live(survivor, True)


def background(survivor, context):
    """Takes a snapshot of the guest while it runs. The guest goes on."""
    survivor.save(survivor.path("image"), background=True)
    # The migration has stopped the guest only for its devices.
    survivor.until("going on", lambda: survivor.status() in ("running", "postmigrate", "paused"))
    status = survivor.status()
    if status != "running":
        survivor.go_on()
    return {"status_after_snapshot": status}


def from_background(survivor, context):
    """Kills the guest, and goes on with the snapshot."""
    survivor.kill()
    survivor.restore(survivor.device, survivor.path("image"), "")
    if survivor.status() != "running":
        survivor.go_on()


def stop(survivor, context):
    """Stops the guest for some time."""
    seconds = 60 if context.long else 5
    survivor.stop()
    time.sleep(seconds)
    survivor.go_on()
    return {"stopped_seconds": seconds}


def reset(survivor, context):
    """Resets the machine. The guest boots and begins its work anew."""
    survivor.qmp.execute("set-action", reboot="reset")
    survivor.qmp.execute("system_reset")
    survivor.guest.expect(r"^guest: ready", 300)
    survivor.qmp.execute("set-action", reboot="shutdown")
    survivor.rewind("")
    survivor.work()


def killed(survivor, context):
    """Saves the guest to a file, lets it work, kills the VMM, and goes on with the file."""
    path = survivor.path("image")
    partial = survivor.stop()
    survivor.save(path)
    survivor.go_on()
    survivor.watch(2)
    survivor.kill()
    survivor.restore(survivor.device, path, partial)
    survivor.go_on()


def plug(survivor, context):
    """Adds a CPU, which the guest's kernel takes online."""
    free = [cpu for cpu in survivor.qmp.execute("query-hotpluggable-cpus") if "qom-path" not in cpu]
    number = survivor.vcpus
    # They are numbered by socket, core and thread, and listed from the last one.
    cpu = min(free, key=lambda cpu: [cpu["props"].get(f"{level}-id", 0) for level in ("socket", "core", "thread")])
    survivor.qmp.execute("device_add", driver=cpu["type"], id="plugged", **cpu["props"])
    survivor.guest.place()
    survivor.until(f"CPU {number} present", lambda: number in survivor.cpus()[0])
    survivor.guest.check(f"[ $(cat /sys/devices/system/cpu/cpu{number}/online) = 1 ] ||"
                         f" echo 1 >/sys/devices/system/cpu/cpu{number}/online")
    return {"cpus": survivor.cpus()}


def unplug(survivor, context):
    """Takes the CPU away again."""
    number = survivor.vcpus
    survivor.qmp.execute("device_del", id="plugged")
    survivor.qmp.event("DEVICE_DELETED", 180, device="plugged")
    survivor.until(f"CPU {number} gone", lambda: number not in survivor.cpus()[0])
    return {"cpus": survivor.cpus()}


def memory_size(survivor):
    """The memory that the guest's kernel uses, in KiB."""
    return int(survivor.guest.check("grep MemTotal: /proc/meminfo")[-1].split()[1])


def plug_memory(survivor, context):
    """Adds 128 MiB of memory."""
    before = memory_size(survivor)
    survivor.qmp.execute("object-add", qom_type="memory-backend-ram", id="more", size=128 << 20)
    survivor.qmp.execute("device_add", driver="pc-dimm", id="dimm", memdev="more")
    survivor.until("more memory", lambda: memory_size(survivor) >= before + (100 << 10))
    return {"kib": memory_size(survivor)}


def unplug_memory(survivor, context):
    """Takes it away again."""
    survivor.qmp.execute("device_del", id="dimm")
    survivor.qmp.event("DEVICE_DELETED", 180, device="dimm")
    survivor.qmp.execute("object-del", id="more")
    return {"kib": memory_size(survivor)}


def slots(survivor, context):
    """Has QEMU delete the slot of the guest's memory, with the descriptors, and make others there, and the reverse.

    The registers of the chipset say what of the memory below 1 MiB is RAM and can be written. If all of it is, the slot
    that begins there has the rest of the memory, too; if not, that is another slot.
    """
    config = "/sys/bus/pci/devices/0000:00:00.0/config"

    def write(register, value):
        survivor.guest.check(f"printf '\\x{value:02x}' | dd of={config} bs=1 seek={register} conv=notrunc 2>/dev/null")

    def slot():
        view = survivor.qmp.execute("human-monitor-command", command_line="info mtree -f")
        return [line.split()[0] for line in view.splitlines() if "pc.ram" in line and "-000000000fffffff " in line]

    seen = set()
    for register in range(0x91, 0x97):
        write(register, 0x33)
    for _ in range(3):
        for value in (0x30, 0x10):
            write(0x90, value)
            seen.update(slot())
    if len(seen) < 2:
        raise GuestError(f"the slot has not changed: {seen}")
    return {"slots": sorted(seen)}


SCENARIOS = {
    "migrate-file": [Step(to_file)],
    "migrate-kvm": [Step(to_kvm, "to-kvm", compares=False), Step(from_kvm, "from-kvm")],
    "snapshot": [Step(snapshot, goes_back=True)],
    "precopy": [Step(precopy)],
    "postcopy": [Step(postcopy)],
    "background": [Step(background), Step(from_background, "from-background", goes_back=True)],
    "stop": [Step(stop)],
    "reset": [Step(reset)],
    "cpu": [Step(plug, "cpu-plug", compares=False), Step(unplug, "cpu-unplug")],
    "memory": [Step(plug_memory, "memory-plug"), Step(unplug_memory, "memory-unplug")],
    "slots": [Step(slots)],
    "killed": [Step(killed, goes_back=True)],
}
