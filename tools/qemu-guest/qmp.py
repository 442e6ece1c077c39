# SPDX-License-Identifier: GPL-2.0
"""QEMU's machine protocol, as far as tests of guests need it."""

import json
import socket
import time
from pathlib import Path


class QmpError(Exception):
    """QEMU has refused a command, or a job of its has failed."""


class Qmp:
    """A connection to QEMU's monitor. Times out if QEMU does not answer."""

    def __init__(self, path, limit=120):
        self._limit = limit
        self._events = []
        end = time.monotonic() + limit
        # QEMU makes the socket some time after its process has begun.
        while not Path(path).exists():
            if time.monotonic() > end:
                raise QmpError(f"QEMU has made no monitor within {limit} s")
            time.sleep(0.1)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limit)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rw")
        self._message()
        self.execute("qmp_capabilities")

    def close(self):
        self._stream.close()
        self._socket.close()

    def _message(self):
        try:
            line = self._stream.readline()
        except OSError as error:
            raise QmpError(f"QEMU's monitor: {error}") from None
        if not line:
            raise QmpError("QEMU has closed its monitor")
        return json.loads(line)

    def execute(self, command, **arguments):
        """Executes a command. Returns what QEMU returns. Underscores in arguments' names are hyphens."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise QmpError(f"{command}: {error}") from None
        while True:
            message = self._message()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            elif "return" in message:
                return message["return"]

    def event(self, name, limit, **data):
        """Waits until there is an event with this data among its own. One that has come since the last call counts."""
        end = time.monotonic() + limit
        while True:
            for event in self._events:
                if event["event"] == name and all(event["data"].get(key) == value for key, value in data.items()):
                    self._events.remove(event)
                    return event["data"]
            if time.monotonic() > end:
                raise QmpError(f"no event {name} {data or ''} within {limit} s")
            # Events come with the answers.
            self.execute("query-status")
            time.sleep(0.05)

    def job(self, command, limit, **arguments):
        """Executes a command that is a job, and waits for its end."""
        name = f"job-{time.monotonic_ns()}"
        self.execute(command, job_id=name, **arguments)
        end = time.monotonic() + limit
        while True:
            job = next(job for job in self.execute("query-jobs") if job["id"] == name)
            if job["status"] == "concluded":
                self.execute("job-dismiss", id=name)
                if "error" in job:
                    raise QmpError(f"{command}: {job['error']}")
                return
            if time.monotonic() > end:
                raise QmpError(f"{command} has not ended within {limit} s: {job}")
            time.sleep(0.1)

    def capabilities(self, **capabilities):
        """Switches capabilities of migration on or off."""
        self.execute("migrate-set-capabilities", capabilities=[
            {"capability": name.replace("_", "-"), "state": state} for name, state in capabilities.items()])

    def migrated(self, limit):
        """Waits for the end of a migration, and returns what QEMU says of it."""
        end = time.monotonic() + limit
        while True:
            migration = self.execute("query-migrate")
            status = migration.get("status")
            if status == "completed":
                return migration
            if status in ("failed", "cancelled", "postcopy-paused"):
                raise QmpError(f"the migration has {status}: {migration.get('error-desc')}")
            if time.monotonic() > end:
                raise QmpError(f"the migration has not ended within {limit} s: {migration}")
            time.sleep(0.1)
